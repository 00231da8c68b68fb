"""`tabagent rag`, against a running server with the built-in models."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pexpect
import pytest

from tabagent.runtime import DataDirectory
from tests.commands.test_serve import run, serving

SOUP = "# Soup\n\nBoil two \x1b[31mcarrots for an hour [red]with salt.\n"
PAGE = (
    b"<html><head><title>Bread</title></head><body><main><p>Bread is baked hot.</p></main></body>"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A server's data directory, as an option."""
    data = tmp_path_factory.mktemp("rag")
    with serving(data):
        yield ["--data-dir", str(data)]


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "/bread")
                self.end_headers()
                return
            self.send_response(200 if self.path == "/bread" else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, format: str, *args: object) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_file_is_taken_in_found_listed_and_deleted(place: list[str], tmp_path: Path) -> None:
    file = tmp_path / "soup.md"
    file.write_text(SOUP)
    assert run("rag", "add", str(file), *place).stdout == "default: 1 added\n"
    assert run("rag", "add", str(file), *place).stdout == "default: 1 unchanged\n"
    file.write_text(SOUP + "\nAnd pepper.")
    assert run("rag", "add", str(file), *place).stdout == "default: 1 updated\n"
    found = run("rag", "search", "how long to boil carrots", *place).stdout
    assert found.startswith("[1] Soup")
    assert "carrots for an hour [red]with salt. And pepper." in " ".join(found.split())
    assert "\x1b[31m" not in found
    assert file.as_uri() in found.replace("\n", "")
    listed = run("rag", "list", *place).stdout
    assert "Soup" in listed and "markdown" in listed
    assert "tabagent/embed" in run("rag", "collections", *place).stdout
    assert run("rag", "rm", file.as_uri(), *place).returncode == 1, "nobody can be asked"
    assert run("rag", "rm", file.as_uri(), "--yes", *place).stdout == "Soup is deleted\n"
    assert "no such document" in run("rag", "rm", file.as_uri(), "--yes", *place).stderr


def test_a_folder_and_several_files_and_what_cannot_be_read(
    place: list[str], tmp_path: Path
) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_text("Penguins sleep on ice.")
    (tmp_path / "folder" / "below" / "b.md").write_text("# Whales\n\nWhales sing.")
    (tmp_path / "folder" / "c.pdf").write_bytes(b"%PDF-1.7 broken")
    done = run("rag", "add", str(tmp_path / "folder"), *place)
    assert done.returncode == 1
    assert done.stdout == "default: 2 added, 1 failed\n"
    assert "c.pdf" in done.stderr and "could not be taken in" in done.stderr
    (tmp_path / "noise.dat").write_bytes(bytes(range(256)) * 9)
    noise = run("rag", "add", str(tmp_path / "noise.dat"), *place)
    assert noise.returncode == 1 and "unsupported-media-type" in noise.stderr
    missing = run("rag", "add", str(tmp_path / "none.txt"), *place)
    assert missing.returncode == 1 and "cannot be read" in missing.stderr
    assert (
        "only folders are watched"
        in run("rag", "add", str(tmp_path / "folder" / "a.txt"), "--watch", *place).stderr
    )


def test_a_page_is_fetched_by_the_command_and_pushed(place: list[str], web: str) -> None:
    assert run("rag", "add", f"{web}/away", *place).stdout == "default: 1 added\n"
    found = run("rag", "search", "baked bread", "--mode", "words", *place).stdout
    assert found.startswith("[1] Bread") and f"{web}/away" in found
    assert "answered HTTP 404" in run("rag", "add", f"{web}/none", *place).stderr
    assert "neither an http" in run("rag", "add", "ftp://example.org/x", *place).stderr


def test_stdin_is_a_document_too_and_an_answer_says_where_it_is_from(place: list[str]) -> None:
    command = [sys.executable, "-m", "tabagent", "rag", "add", "-", "--title", "Cats", *place]
    added = subprocess.run(
        command, input="Cats sleep all day.", capture_output=True, text=True, check=True, timeout=60
    )
    assert added.stdout == "default: 1 added\n"
    asked = run("rag", "ask", "How do I pull a model?", "--top-k", "2", *place)
    assert asked.returncode == 0, asked.stderr
    assert "tabagent pull" in asked.stdout, "the built-in guide answers"
    assert "[1] " in asked.stdout and "[2] " in asked.stdout
    missed = run("rag", "ask", "Which quasar is oldest?", "--min-score", "0.99", *place)
    assert missed.returncode == 1
    assert "not in the sources" in missed.stdout


def test_what_cannot_be_taken_in_does_not_keep_the_others_out(
    place: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 broken")
    (tmp_path / "good.md").write_text("# Owls\n\nOwls hunt at night.")
    names = [str(tmp_path / name) for name in ("bad.pdf", "none.md", "good.md")]
    done = run("rag", "add", *names, *place)
    assert done.returncode == 1
    assert done.stdout == "default: 1 added, 2 failed\n"
    assert f"{names[0]}: " in done.stderr and f"{names[1]} cannot be read" in done.stderr
    assert run("rag", "search", "owls at night", *place).stdout.startswith("[1] Owls")


def test_an_excerpt_shows_what_was_asked_for(place: list[str], tmp_path: Path) -> None:
    said = "Nothing of note is said in the beginning. " * 12
    (tmp_path / "long.txt").write_text(f"{said}The zephyr blows over the quay. {said}")
    run("rag", "add", str(tmp_path / "long.txt"), *place)
    found = run("rag", "search", "zephyr quay", "--top-k", "1", *place).stdout
    assert "The zephyr blows over the quay." in " ".join(found.split())
    assert found.splitlines()[1].startswith("…")


@pytest.mark.parametrize("width", [80, 120])
def test_in_a_terminal_words_are_emphasised_and_sources_can_be_clicked(
    place: list[str], tmp_path: Path, width: int
) -> None:
    file = tmp_path / "fox.md"
    file.write_text("# Fox\n\n## Den\n\nThe vixen digs her den under the roots of an old oak.")
    run("rag", "add", str(file), "--source", f"file:///w/{width}/fox.md", *place)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "tabagent", "rag", "search", "vixen den", "--top-k", "1", *place],
        dimensions=(40, width), encoding="utf-8", timeout=30,
    )  # fmt: skip
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    shown = child.before
    assert re.search(r"\x1b\]8;[^;]*;file:///w/\d+/fox\.md\x1b\\", shown)
    assert "\x1b[1;33mvixen\x1b[0m" in shown
    plain = re.sub(r"\x1b\]8;[^\x1b]*\x1b\\|\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert plain.startswith("[1] Fox  0.")
    assert max(len(line) for line in plain.splitlines()) <= width


def test_ctrl_c_cancels_the_job(place: list[str], tmp_path: Path) -> None:
    for n in range(300):
        (tmp_path / f"{n}.md").write_text(f"# Part {n}\n\n" + f"Sentence {n} says more. " * 800)
    child = pexpect.spawn(
        sys.executable, ["-m", "tabagent", "rag", "add", str(tmp_path), *place],
        dimensions=(40, 100), encoding="utf-8", timeout=30,
    )  # fmt: skip
    child.expect(r"[1-9]\d*/300")
    child.sendintr()
    child.expect("stopped; what was taken in stays")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    with client_of(place) as client:
        last = client.get("/v1/rag/jobs").json()["data"][0]
    assert (last["kind"], last["state"]) == ("folder", "cancelled")
    assert 0 < last["done"] < 300


def client_of(place: list[str]) -> httpx.Client:
    running = DataDirectory(Path(place[1])).running()
    assert running is not None
    return httpx.Client(base_url=running.url, trust_env=False)


def test_wrong_words_are_told(place: list[str]) -> None:
    assert run("rag", "search", "x", "--mode", "magic", *place).returncode == 2
    unknown = run("rag", "search", "x", "-c", "nowhere", *place)
    assert unknown.returncode == 1 and "collection-not-found" in unknown.stderr
    assert run("rag", "add", "a", "b", "--title", "t", *place).returncode == 2
