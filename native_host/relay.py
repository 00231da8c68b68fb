"""The browser's native-messaging host: carries frames between the browser and TabAgent's server.

    browser <- stdin, stdout -> this process <- socket named in runtime.json -> server

A frame is a 4-byte length in native byte order and a JSON body; bodies pass through unread. What
the host says itself: `status` events and problems, while the server cannot be reached or a frame is
too long. It runs by itself with any Python from 3.9 on, outside of any environment, and imports
little: a browser waits for it. `host.json` beside it says whom it serves.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Any, BinaryIO, NoReturn

VERSION = "0.1.0"
CONFIG = "host.json"
LOG = "server.log"

MOST = 64 * 1024 * 1024
"""Longest body in bytes that a browser sends, and that the server takes."""
MOST_TO_BROWSER = 1024 * 1024
"""Longest that a browser takes; one byte more and it closes the port."""
HEAD = 1024

CONNECT_S = 0.3
START_S = 30.0
LOOK_S = 0.05
STATUS_S = 0.5
AGAIN_S = 0.5  # until another start, when the data directory was somebody's; then twice as long
REST_S = 5.0  # until another start, when one has failed
GRACE_S = 0.5  # to pass on what the browser said last; it kills us 2 s after it is gone
LARGE_LOG = 4 * 1024 * 1024

PORT_TAKEN = 3
DIRECTORY_IN_USE = 75

PROBLEMS = {
    "server-unreachable": (
        503,
        "The server does not run, or does not answer",
        True,
        "server_error",
    ),
    "origin-not-allowed": (403, "This origin may not call the gateway", False, "permission_error"),
    "payload-too-large": (413, "The body is too large", False, "invalid_request_error"),
}
"""Status, title, whether a retry can help, OpenAI's type: as the server's catalogue has them."""


class Browser:
    """The pipe to the browser: whole frames, one writer at a time. A slow reader holds us up."""

    def __init__(self, out: int) -> None:
        self._out, self._turn = out, threading.Lock()

    def write(self, frame: bytes) -> None:
        with self._turn:
            rest = memoryview(frame)
            try:
                while rest:
                    rest = rest[os.write(self._out, rest) :]
            except OSError:
                leave(0)  # nobody reads any more

    def say(self, message: dict[str, Any]) -> None:
        self.write(framed(json.dumps(message).encode()))

    def status(self, **data: Any) -> None:
        self.say({"request_id": None, "success": True, "event": "status", "data": data})

    def problem(self, request_id: str | None, code: str, detail: str, **members: Any) -> None:
        status, title, retryable, kind = PROBLEMS[code]
        error = {
            "type": f"/problems/{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": f"urn:uuid:{as_uuid(request_id)}",
            "code": code,
            "retryable": retryable,
            **members,
            "error": {"message": detail, "type": kind, "param": None, "code": code},
        }
        self.say({"request_id": request_id, "success": False, "error": error})


class Server:
    """One connection to the server, and the thread that carries its frames to the browser."""

    def __init__(self, peer: socket.socket, browser: Browser) -> None:
        self._lost, self._losing = False, threading.Lock()
        self._peer, self._browser = peer, browser
        threading.Thread(target=self._carry, daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether it is gone; true once the browser has been told, not sooner and not later."""
        with self._losing:
            return self._lost

    def send(self, body: bytes) -> None:
        """Pass a message on. One that the server was too dead for is among those it failed."""
        try:
            if len(body) <= HEAD * 64:
                self._peer.sendall(framed(body))
            else:  # not copied for four bytes
                self._peer.sendall(length_of(body))
                self._peer.sendall(body)
        except OSError:
            try:  # noqa: SIM105  # contextlib takes its time to import
                self._peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side has done so

    def _carry(self) -> None:
        try:
            with self._peer, self._peer.makefile("rb") as incoming:
                while self._carry_one(incoming):
                    pass
        except OSError:
            pass
        with self._losing:  # who hears of it sends again, and that has to find another connection
            self._browser.problem(None, "server-unreachable", "The server went away.")
            self._lost = True

    def _carry_one(self, incoming: BinaryIO) -> bool:
        header = incoming.read(4)
        length = int.from_bytes(header, sys.byteorder)
        if len(header) < 4 or length > MOST:
            return False
        if length <= MOST_TO_BROWSER:
            body = incoming.read(length)
            if len(body) < length:
                return False
            self._browser.write(header + body)
            return True
        head = incoming.read(HEAD)
        if not skip(incoming, length - len(head)):
            return False
        detail = f"The answer has {length} bytes, and a browser takes {MOST_TO_BROWSER}."
        self._browser.problem(
            named_in_head(head), "payload-too-large", detail, limit_bytes=MOST_TO_BROWSER
        )
        return True


class Host:
    """What one port of the browser is served with."""

    def __init__(self, config: dict[str, Any], origin: str, browser: Browser) -> None:
        self._data_dir = str(config.get("data_dir") or own_data_dir())
        self._command = [*config.get("command", ()), "--data-dir", self._data_dir]
        self._auto_start = bool(config.get("auto_start", True)) and bool(config.get("command"))
        self._preface = {"origin": origin, "host_version": VERSION}
        self._browser = browser
        self._server: Server | None = None
        self._why, self._rested = "", 0.0

    def run(self, incoming: BinaryIO) -> None:
        """Serve until the browser's end of file."""
        if not self._connect() and self._auto_start:
            why = self._reach()  # a port is opened to be used
            if why:
                self._browser.problem(None, "server-unreachable", why)
        for body in frames(incoming):
            if isinstance(body, int):
                detail = f"The message has {body} bytes; {MOST} are the limit."
                self._browser.problem(None, "payload-too-large", detail, limit_bytes=MOST)
                continue
            why = self._reach()
            if why:
                self._browser.problem(request_id_of(body), "server-unreachable", why)
            elif self._server is not None:
                self._server.send(body)

    def _reach(self) -> str:
        """Be connected; if that cannot be: why."""
        if (self._server is not None and not self._server.lost) or self._connect():
            return ""
        if not self._auto_start:
            return "No server runs. Start one: tabagent serve"
        if time.monotonic() < self._rested:
            return self._why
        self._why = self._start()
        if self._why:
            self._rested = time.monotonic() + REST_S
        return self._why

    def _connect(self) -> bool:
        try:
            running = self._running()
            native, preface = running["native"], dict(self._preface)
            if "path" in native:
                peer, address = socket.socket(socket.AF_UNIX), native["path"]
            else:
                peer, address = socket.socket(), ("127.0.0.1", native["port"])
                preface["token"] = native["token"]
            try:
                peer.settimeout(CONNECT_S)
                peer.connect(address)
                peer.sendall(framed(json.dumps(preface).encode()))
                peer.settimeout(None)
            except OSError:
                peer.close()
                raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False
        self._browser.status(state="connected", version=str(running.get("version", "")))
        self._server = Server(peer, self._browser)
        return True

    def _running(self) -> Any:
        with open(os.path.join(self._data_dir, "runtime.json"), encoding="utf-8") as file:
            return json.load(file)

    # ---- a server that does not run yet ---------------------------------------------------------
    def _start(self) -> str:
        """Start a server and connect to it, or to one that another started; if not: why."""
        began = time.monotonic()
        command, child = list(self._command), None
        told, due, again, since = -1, 0.0, AGAIN_S, 0
        while True:
            elapsed = time.monotonic() - began
            if elapsed >= START_S:
                return f"The server did not start within {START_S:.0f} s."
            if int(elapsed / STATUS_S) > told:
                told = int(elapsed / STATUS_S)
                self._browser.status(state="starting", elapsed_ms=int(elapsed * 1000))
            if child is None and elapsed >= due:
                try:
                    child, since = self._spawn(command)
                except OSError as error:  # its text has no path
                    return f"The server cannot be run: {error.strerror}. What mends it: tabagent doctor --browser"
            if self._connect():
                return ""
            code = None if child is None else child.poll()
            if code is not None:
                child, due = None, elapsed
                if code == DIRECTORY_IN_USE:  # another starts it, or it is leaving
                    if self._serves_http_alone():
                        return "A server runs, with HTTP alone. Start it with --mode both."
                    due, again = due + again, again * 2
                elif code == PORT_TAKEN and "--port" not in command:
                    command += ["--port", "0"]  # the browser needs no port that it knows
                else:
                    return last_words(os.path.join(self._data_dir, LOG), since, code)
            time.sleep(LOOK_S)

    def _spawn(self, command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
        """A server of its own session, and where in the log its words begin."""
        import subprocess

        os.makedirs(self._data_dir, mode=0o700, exist_ok=True)
        path = os.path.join(self._data_dir, LOG)
        new = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            if os.path.getsize(path) > LARGE_LOG:
                os.replace(path, path + ".old")
        except OSError:
            pass  # there is none yet
        with open(os.open(path, new, 0o600), "ab") as log:
            since = os.fstat(log.fileno()).st_size
            kept: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": log,
                "stderr": log,
                "cwd": self._data_dir,
            }
            if os.name == "posix":
                child = subprocess.Popen(command, start_new_session=True, **kept)
            else:
                child = detached_on_windows(command, kept)
        # It is reaped when it ends, or whoever looks for it finds its remains.
        threading.Thread(target=child.wait, daemon=True).start()
        return child, since

    def _serves_http_alone(self) -> bool:
        try:
            return self._running().get("native") is None
        except (OSError, ValueError, AttributeError):
            return False


def detached_on_windows(command: list[str], kept: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Without a console, and outside the job that a browser ends its children with."""
    import subprocess

    detached, breakaway = 0x00000208, 0x01000000  # DETACHED_PROCESS | NEW_PROCESS_GROUP; its name
    try:
        return subprocess.Popen(command, creationflags=detached | breakaway, **kept)
    except OSError:  # the job lets nobody go
        return subprocess.Popen(command, creationflags=detached, **kept)


def last_words(path: str, since: int, code: int) -> str:
    """Why a server did not start: its own `Error:` line, which names no more than it must."""
    try:
        with open(path, "rb") as log:
            log.seek(since)
            lines = log.read(64 * 1024).decode(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("Error: "):
            return f"The server did not start: {line[7:].strip()}"
    return f"The server did not start (exit code {code}). `tabagent serve` shows why."


# ---- frames -------------------------------------------------------------------------------------
def length_of(body: bytes) -> bytes:
    return len(body).to_bytes(4, sys.byteorder)


def framed(body: bytes) -> bytes:
    return length_of(body) + body


def frames(incoming: BinaryIO) -> Iterator[bytes | int]:
    """Each body until the end of file; of one that is too long its length, once it is past."""
    while True:
        header = incoming.read(4)
        if len(header) < 4:
            return
        length = int.from_bytes(header, sys.byteorder)
        if length > MOST:
            if not skip(incoming, length):
                return
            yield length
            continue
        body = incoming.read(length)
        if len(body) < length:
            return
        yield body


def skip(incoming: BinaryIO, length: int) -> bool:
    """Pass over as many bytes; whether they came."""
    while length:
        passed = len(incoming.read(min(length, 65536)))
        if not passed:
            return False
        length -= passed
    return True


def request_id_of(body: bytes) -> str | None:
    """The id that an answer has to bear, if the message can be read and has one."""
    if len(body) > MOST_TO_BROWSER:
        return None
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = message.get("request_id") if isinstance(message, dict) else None
    return found if isinstance(found, str) and 1 <= len(found) <= 64 else None


def named_in_head(head: bytes) -> str | None:
    """The request id out of a message's first bytes, where the server puts it."""
    before, _, after = head.partition(b'"request_id":')
    quoted, mark, _ = after.strip()[1:].partition(b'"')
    if before.strip() != b"{" or not after.strip().startswith(b'"') or not mark:
        return None
    return request_id_of(b'{"request_id": "' + quoted + b'"}')


def as_uuid(request_id: str | None) -> str:
    """The request's own, where it is one, as everywhere; else a fresh one."""
    digits = (request_id or "").replace("-", "").lower()
    if len(digits) != 32 or digits.strip("0123456789abcdef"):
        digits = os.urandom(16).hex()
        digits = f"{digits[:12]}4{digits[13:16]}a{digits[17:]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# ---- this process -------------------------------------------------------------------------------
def caller(arguments: list[str]) -> str:
    """Who the browser says has opened the port. Chromium: its origin; Firefox: the add-on's id."""
    for argument in arguments:
        if argument.startswith("chrome-extension://"):
            return argument
    if len(arguments) >= 2 and arguments[0].endswith(".json"):
        return f"moz-extension-id:{arguments[1]}"
    return ""


def may_call(origin: str, config: dict[str, Any]) -> bool:
    if origin.startswith("moz-extension-id:"):
        return origin.partition(":")[2] in config.get("allowed_extensions", ())
    return origin in config.get("allowed_origins", ())


def own_data_dir() -> str:
    """The user's, for a host that is installed for everybody. The same place as the server's."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
        return os.path.join(local, "tabagent", "tabagent")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Application Support", "tabagent")
    shared = os.environ.get("XDG_DATA_HOME", "").strip() or os.path.join(home, ".local", "share")
    return os.path.join(shared, "tabagent")


def leave(code: int) -> NoReturn:
    """End at once, whatever the other thread is blocked in."""
    os._exit(code)


def watch() -> None:
    """Leave when the browser is gone, also while a message waits for a server that takes none.

    A pipe tells of its end even while there is something in it to read.
    """
    import select

    if not hasattr(select, "poll"):
        return  # on Windows the end is seen when it is read
    ends = select.poll()
    ends.register(0, select.POLLHUP)
    for _, event in ends.poll():
        if event & select.POLLHUP:
            time.sleep(GRACE_S)
            leave(0)


def own_pipes() -> int:
    """Keep stdout for frames alone: whatever prints, prints to stderr."""
    out = os.dup(1)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no stderr
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if os.name == "posix":
        os.set_blocking(0, True)
        os.set_blocking(out, True)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(0, os.O_BINARY)
        msvcrt.setmode(out, os.O_BINARY)
    return out


def main() -> int:
    browser = Browser(own_pipes())
    place = os.path.dirname(os.path.abspath(__file__))
    try:
        with open(os.path.join(place, CONFIG), encoding="utf-8") as file:
            config: dict[str, Any] = {**json.load(file)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        detail = "The host is not installed well. Install again: tabagent native install"
        browser.problem(None, "server-unreachable", detail)
        return 78
    origin = caller(sys.argv[1:])
    if not may_call(origin, config):
        detail = f"{origin or 'Who says no origin'} may not use this host. Its owner may allow it: tabagent native install --extension-id ID"
        browser.problem(None, "origin-not-allowed", detail)
        return 77
    threading.Thread(target=watch, daemon=True).start()
    Host(config, origin, browser).run(sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    try:
        leave(main())
    except KeyboardInterrupt:
        leave(130)
