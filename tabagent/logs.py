"""Log lines: structlog to standard error, as console text or JSON. No prompts, answers or headers.

A line that is written while a request is served says which. A target that is closed, full or not
read loses lines and holds nobody up. What is to be audited is a logger of its own, which no level
silences.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog

from tabagent.exchange import request_id

AUDIT: Final = "tabagent.audit"
AT_ONCE: Final = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes whole when it is ready
PATIENCE_MS: Final = 20  # that a reader gets to make room for a line
Style = Literal["console", "json"]


class Target:
    """A stream that lines go to. `lost` counts those that it did not take."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._turn = threading.Lock()
        self._patience_ms = PATIENCE_MS
        self.lost = 0

    def write(self, line: str) -> None:
        """Never raises, and never waits longer than PATIENCE_MS: not at all after a line was lost."""
        data = (line + "\n").encode(errors="backslashreplace")
        with self._turn:
            try:
                taken = self._take(data)
            except (OSError, ValueError):  # closed, full
                taken = False
            self._patience_ms = PATIENCE_MS if taken else 0
            self.lost += not taken

    def _take(self, data: bytes) -> bool:
        if self._stream is None:
            return False
        try:
            fd = self._stream.fileno()
        except OSError:  # io.UnsupportedOperation: no file behind it
            self._stream.write(data.decode())
            self._stream.flush()
            return True
        while data:
            if not _ready(fd, self._patience_ms):
                return False
            data = data[os.write(fd, data[:AT_ONCE]) :]
        return True


def _ready(fd: int, patience_ms: int) -> bool:
    if not hasattr(select, "poll"):  # Windows, where it cannot be known
        return True
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(patience_ms))


class File:
    """A file that lines are added to, readable by its owner alone. Opened anew for each line, so
    that it can be moved away; where it cannot be written, lines go to `instead`.
    """

    def __init__(self, path: Path, instead: Target) -> None:
        self._path, self._instead = path, instead

    def write(self, line: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        data = (line + "\n").encode(errors="backslashreplace")
        try:
            fd = os.open(self._path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
            try:
                whole = os.write(fd, data) == len(data)
            finally:
                os.close(fd)
        except OSError:
            whole = False
        if not whole:
            self._instead.write(line)


class _Lines:
    """What structlog hands finished lines to."""

    def __init__(self, write: Callable[[str], None], name: str, *, json: bool) -> None:
        self.name, self.json = name, json
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = write


class _Forward(logging.Handler):
    """Lines of libraries, which know the standard library's logging alone."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a line of theirs that cannot be made is their loss
            structlog.get_logger().log(
                record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
            )


standard_error: Target = Target(sys.stderr)
"""Where lines go at present."""


def configure(
    level: str, style: Style, audit_file: Path | None = None, *, aloud: bool = True
) -> None:
    """Set up logging for the process. `aloud`: what is audited is said on standard error where no
    file takes it; a command says to its owner in its own words what it did.
    """
    global standard_error
    standard_error = target = Target(sys.stderr)
    spoken = target if aloud else Target(None)
    audit = File(audit_file, target) if audit_file else spoken

    def logger(*names: Any) -> _Lines:
        if AUDIT in names:
            return _Lines(audit.write, AUDIT, json=style == "json" or audit_file is not None)
        return _Lines(target.write, "", json=style == "json")

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _of_request,
            _Renderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=logger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _Forward) for handler in root.handlers):
        root.addHandler(_Forward(logging.WARNING))


def _of_request(
    logger: Any, method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if "request_id" not in line and (id_ := request_id()):
        line["request_id"] = id_
    return line


class _Renderer:
    """JSON for programs, text for people; which of them reads, the logger knows."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=repr).encode
        self._console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr is not None and sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )

    def __call__(self, logger: Any, method: str, line: structlog.typing.EventDict) -> str:
        if name := getattr(logger, "name", ""):
            line["logger"] = name
        if not getattr(logger, "json", False):
            shown = {key: _printable(value) for key, value in line.items()}
            return str(self._console(logger, method, shown))
        line = structlog.processors.format_exc_info(logger, method, line)
        try:
            return self._encode(line).decode()
        except (ValueError, TypeError, OverflowError):  # half of a character, a number that long
            return json.dumps(line, default=repr)


def _printable(value: Any) -> Any:
    """What a terminal shows and does not obey."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


audit: Final[Any] = structlog.get_logger(
    AUDIT, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
)
"""Who did what with more rights than a user's: always written, and never with a secret in it."""
