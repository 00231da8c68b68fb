"""Documents read in a child process: its answers, its limits and its deaths."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from msgspec.structs import replace

from tabagent import errors
from tabagent.paper import Kind, Paper
from tabagent.retrieval.reader import CRASHED, ENVIRONMENT, TOO_LONG, Reader
from tests.live import eventually
from tests.worker.reading.documents import (
    SPLITTING,
    docx,
    encrypted,
    p,
    pdf,
    pdf_of,
    stream,
    uncovered,
)

MB = 10**6
SLOW = b">" * 16_000_000  # over 30 s of a core
TEXT = "Füße 👩‍👩‍👧 日本語。 e\u0301\r\n\r\nMore text here.\n"


@pytest_asyncio.fixture
async def reader() -> AsyncIterator[Reader]:
    reader = Reader()
    yield reader
    await reader.close()


async def ask(reader: Reader, data: bytes, kind: Kind = "text", **more: str) -> Paper:
    return await reader.read(data, kind, SPLITTING, **more)


def pid(reader: Reader) -> int:
    assert reader.pid is not None
    return reader.pid


def gone(process: int) -> bool:
    return not psutil.pid_exists(process)


async def busy(reader: Reader) -> None:
    """Return when the child is in the middle of a document."""
    while reader.pid is None or psutil.Process(reader.pid).cpu_times().user < 0.7:
        await asyncio.sleep(0.02)


async def works(reader: Reader) -> None:
    assert (await ask(reader, b"fine")).text == "fine"


# ---- answers ------------------------------------------------------------------------------------
async def test_every_kind_is_read_by_one_child(reader: Reader) -> None:
    kinds: dict[Kind, bytes] = {
        "text": b"word",
        "markdown": b"# word",
        "html": b"<title>t</title><p>word",
        "pdf": pdf(["word"]),
        "docx": docx(p("word")),
    }
    children = set()
    for kind, data in kinds.items():
        paper = await ask(reader, data, kind)
        assert paper.text.endswith("word")
        assert [(c.start, c.end) for c in paper.chunks] == [(0, len(paper.text))]
        children.add(reader.pid)
    assert len(children) == 1


@pytest.mark.parametrize("kind", ["text", "markdown"])
async def test_a_text_stays_as_it_was_and_offsets_point_into_it(reader: Reader, kind: Kind) -> None:
    text = TEXT * 100
    paper = await ask(reader, text.encode(), kind)
    assert paper.text == text.replace("\r\n", "\n")
    assert uncovered(paper.text, paper.chunks) == ""
    assert all(a.start < b.start < a.end + 4 for a, b in pairwise(paper.chunks))
    assert all(c.end <= len(paper.text) for c in paper.chunks)


async def test_a_page_has_its_links_and_its_chunks_their_headings(reader: Reader) -> None:
    html = (
        "<html><title>T</title><main><h1>A</h1><h2>B</h2><p>" + "words. " * 400 + "<a href=c>c</a>"
    )
    paper = await ask(reader, html.encode("utf-16"), "html", url="http://h.org/d/")
    assert (paper.title, paper.links[0].url) == ("T", "http://h.org/d/c")
    assert paper.chunks[-1].headings == ["A", "B"]


async def test_documents_wait_for_each_other(reader: Reader) -> None:
    papers = await asyncio.gather(*(ask(reader, f"number {n}".encode()) for n in range(20)))
    assert [paper.text for paper in papers] == [f"number {n}" for n in range(20)]


@pytest.mark.parametrize(
    ("kind", "data", "slug"),
    [
        ("pdf", encrypted(pdf(["x"]), "secret"), "document-unreadable"),
        ("pdf", pdf(["x" * 50])[:400], "document-unreadable"),
        ("docx", b"PK\x03\x04", "document-unreadable"),
        ("html", b"<script>x</script>", "document-unreadable"),
        ("text", random.Random(1).randbytes(9000), "document-unreadable"),
        ("text", b" \n ", "document-unreadable"),
        ("text", b"a" * 50_000_001, "payload-too-large"),
        ("text", b"a" * (64 * 2**20 + 1), "payload-too-large"),
    ],
)
async def test_what_cannot_be_read_is_a_typed_error(
    reader: Reader, kind: Kind, data: bytes, slug: str
) -> None:
    with pytest.raises(errors.TabAgentError) as refused:
        await ask(reader, data, kind)
    assert refused.value.slug == slug
    assert "/" not in refused.value.detail
    assert ("limit_bytes" in refused.value.members) == (slug == "payload-too-large")
    await works(reader)


async def test_a_splitting_that_cannot_be_is_our_own_fault(reader: Reader) -> None:
    for wrong in (replace(SPLITTING, tokenizer="/none"), replace(SPLITTING, overlap=999)):
        with pytest.raises(errors.InternalError, match="cannot be split"):
            await reader.read(b"text", "text", wrong)
    await works(reader)


# ---- limits -------------------------------------------------------------------------------------
async def test_fifty_megabytes_of_text_are_read(reader: Reader) -> None:
    line = b"The quick brown fox jumps over the lazy dog.%s\n" % (b" " * 150)
    paper = await ask(reader, (line * (50 * MB // len(line)))[: 50 * MB])
    assert len(paper.text) > 49 * MB
    assert max(chunk.tokens for chunk in paper.chunks) <= SPLITTING.tokens
    assert reader.pid is None, "it keeps too much memory to be kept"


async def test_a_page_of_fifty_megabytes_is_read(reader: Reader) -> None:
    row = b"<div class='%s'><p style='%s'>A paragraph.</p></div>\n" % (b"c " * 500, b"a:b;" * 500)
    paper = await ask(reader, row * (50 * MB // len(row)), "html")
    assert paper.text.count("A paragraph.") == 50 * MB // len(row)


async def test_a_document_that_takes_too_much_memory_is_refused(reader: Reader) -> None:
    with pytest.raises(errors.DocumentUnreadable, match="memory"):
        await ask(reader, b"<p>a</p>" * 6_000_000, "html")
    await works(reader)


async def test_the_child_has_a_gibibyte_above_what_it_starts_with_and_no_secrets(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABAGENT_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    await works(reader)
    child = psutil.Process(pid(reader))
    limit = child.rlimit(psutil.RLIMIT_AS)[0]
    assert 2**30 < limit < 2**30 + 2**29
    allowed = {*ENVIRONMENT.split(), "TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS"}
    assert set(child.environ()) <= allowed
    loaded = {
        line.rsplit("/", 1)[-1] for line in Path(f"/proc/{child.pid}/maps").read_text().split("\n")
    }
    assert not [name for name in loaded if "pydantic" in name or "onnx" in name or "torch" in name]


async def test_a_document_may_compute_for_so_long_and_no_longer(reader: Reader) -> None:
    task = asyncio.create_task(ask(reader, SLOW, "markdown"))
    await busy(reader)
    os.kill(pid(reader), signal.SIGPROF)  # what the kernel does after 30 s of a core
    with pytest.raises(errors.DocumentUnreadable, match=TOO_LONG):
        await task
    await works(reader)


async def test_the_child_sets_itself_that_clock(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import tabagent.worker.reading.__main__ as m; m.COMPUTE_S = 0.5; m.run(m.main, 2**32)"
    monkeypatch.setattr("tabagent.retrieval.reader.COMMAND", (sys.executable, "-P", "-c", code))
    await works(reader)
    child = pid(reader)
    with pytest.raises(errors.DocumentUnreadable, match=TOO_LONG):
        await ask(reader, SLOW, "markdown")
    assert gone(child)


async def test_pages_that_contain_themselves_and_contents_that_repeat_are_survived(
    reader: Reader,
) -> None:
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 2/Kids[3 0 R 2 0 R]>>",
        b"<</Type/Pages/Count 2/Parent 2 0 R/Kids[2 0 R 3 0 R]>>",
        stream(b"x", b"/Filter[/FlateDecode/FlateDecode/LZWDecode]"),
    ]
    with pytest.raises(errors.DocumentUnreadable):
        await ask(reader, pdf_of(objects), "pdf")
    await works(reader)


# ---- deaths -------------------------------------------------------------------------------------
async def test_an_answer_that_takes_too_long_is_given_up_on() -> None:
    reader = Reader(answer_s=1.5)
    with pytest.raises(errors.DocumentUnreadable, match=TOO_LONG):
        await ask(reader, SLOW, "markdown")
    await works(reader)
    await reader.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_child_killed_in_mid_document_is_replaced(reader: Reader, how: int) -> None:
    task = asyncio.create_task(ask(reader, SLOW, "markdown"))
    after = asyncio.create_task(works(reader))
    await busy(reader)
    os.kill(pid(reader), how)
    with pytest.raises(errors.DocumentUnreadable, match=CRASHED):
        await task
    await after


async def test_a_child_killed_between_documents_is_replaced(reader: Reader) -> None:
    await works(reader)
    first = pid(reader)
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: gone(first))
    await works(reader)


async def test_who_stops_waiting_ends_the_child(reader: Reader) -> None:
    task = asyncio.create_task(ask(reader, SLOW, "markdown"))
    await busy(reader)
    first = pid(reader)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(eventually, lambda: gone(first), 1.0)
    await works(reader)


async def test_who_stops_waiting_for_a_turn_disturbs_nobody(reader: Reader) -> None:
    await works(reader)
    first = pid(reader)
    both = [asyncio.create_task(ask(reader, TEXT.encode() * 2000)) for _ in range(2)]
    await asyncio.sleep(0)
    both[1].cancel()
    assert (await both[0]).chunks
    assert reader.pid == first


async def test_an_unused_child_leaves() -> None:
    reader = Reader(idle_s=0.2)
    await works(reader)
    first = pid(reader)
    await asyncio.to_thread(eventually, lambda: gone(first))
    assert reader.pid is None
    await works(reader)
    await reader.close()


async def test_close_ends_the_child_also_in_mid_document(reader: Reader) -> None:
    task = asyncio.create_task(ask(reader, SLOW, "markdown"))
    after = asyncio.create_task(ask(reader, b"x"))
    await busy(reader)
    first = pid(reader)
    await reader.close()
    assert gone(first)
    for waiting in (task, after):
        with pytest.raises(errors.ShuttingDown):
            await waiting
    await reader.close()


async def test_close_in_the_middle_of_a_start(reader: Reader) -> None:
    task = asyncio.create_task(ask(reader, b"x"))
    while not reader.pid:
        await asyncio.sleep(0)
    await reader.close()
    with pytest.raises(errors.ShuttingDown):
        await task


PARENT = """
import asyncio
from tabagent.retrieval.reader import Reader
from tests.retrieval.test_reader import SLOW, ask

async def main():
    reader = Reader()
    await ask(reader, b"x")
    print(reader.pid, flush=True)
    await ask(reader, SLOW if {busy} else b"y", "markdown")
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("at_work", [True, False])
def test_no_child_outlives_a_killed_gateway(at_work: bool) -> None:
    code = PARENT.format(busy=at_work)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if at_work:
            eventually(lambda: child.cpu_times().user > 1.0, 20)
        parent.kill()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 2.0)
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
