"""`tabagent serve`: take the directory and the port, then serve until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from tabagent import __version__, config, logs
from tabagent.app import Gateway
from tabagent.catalog.gguf_header import read_gguf_header
from tabagent.catalog.places import loose_id
from tabagent.commands.activation import Notify, check_inherited, inherited, notifier
from tabagent.commands.detached import log_where_nobody_reads
from tabagent.commands.failure import (
    BAD_CONFIG,
    DIRECTORY_IN_USE,
    PORT_TAKEN,
    CommandFailed,
)
from tabagent.config import Settings
from tabagent.errors import TabAgentError
from tabagent.runtime import DataDirectory, DirectoryInUse, Running, UnsafeFile, socket_path
from tabagent.stores.unusable import DatabaseUnusable
from tabagent.transports.protocol import look_at, protocol_of


def run(flags: dict[str, Any], models: list[str], *, owned: bool = False) -> None:
    """Serve until SIGINT or SIGTERM. Raises CommandFailed when it cannot start.

    An `owned` server belongs to the process at the other end of its stdin and ends with it, however
    that ends.
    """
    files = [Path(name) for name in models if name.endswith(".gguf") or "\\" in name]
    settings = _settings(flags, models, files)
    log_where_nobody_reads(settings.data_dir)
    logs.configure(settings.log_level, settings.log_format, settings.audit_file)
    _check_exposure(settings)
    _check_socket(settings)
    for file in files:
        _check_model(file)
    directory, notify = DataDirectory(settings.data_dir), notifier()
    with _taken(directory), _listening(settings) as listeners:
        token = settings.token or _token(directory)
        gateway = Gateway(settings, token, files=files)
        _start(gateway)
        url = ""
        if listeners:
            gateway.host, gateway.port = listeners[0].getsockname()[:2]
            url = gateway.url or ""

        def ready() -> None:
            if owned:
                threading.Thread(target=server.stop_at_end_of_input, daemon=True).start()
            gc.freeze()
            gc.enable()
            directory.announce(Running(os.getpid(), url, __version__, gateway.native.address))
            _greet(url, gateway)
            notify("READY=1")

        server = Server(gateway, ready, notify)
        _serve(server, listeners)


def _settings(flags: dict[str, Any], models: list[str], files: list[Path]) -> Settings:
    names = [m for m in models if Path(m) not in files]
    if len(names) > 1 or (names and files and Path(models[0]) in files):
        raise CommandFailed("--model takes files, or one id of a model as the default", code=2)
    if names:
        flags = {**flags, "model": names[0]}
    elif files:
        flags = {**flags, "model": loose_id(files[0])}
    try:
        return config.load(**flags)
    except config.ConfigError as error:
        raise CommandFailed(
            str(error), "`tabagent config` lists every setting", BAD_CONFIG
        ) from error


def _check_exposure(settings: Settings) -> None:
    """Beyond this machine only with a token that the owner chose to set."""
    wide = not settings.local_only and settings.mode != "native"
    if wide and settings.token is None:
        raise CommandFailed(
            f"refusing to listen on {settings.host} without a token",
            "set TABAGENT_TOKEN (16 characters or more) or TABAGENT_TOKEN_FILE, or stay on 127.0.0.1",
            BAD_CONFIG,
        )


def _check_socket(settings: Settings) -> None:
    if settings.mode == "http" or settings.native_socket == "tcp" or os.name == "nt":
        return
    try:
        socket_path(settings.data_dir)
    except UnsafeFile as error:
        raise CommandFailed(str(error), code=BAD_CONFIG) from error


def _check_model(file: Path) -> None:
    try:
        read_gguf_header(file)
    except TabAgentError as error:
        raise CommandFailed(f"{file} cannot be served: {error.detail}", error.advice) from error


@contextlib.contextmanager
def _taken(directory: DataDirectory) -> Iterator[None]:
    try:
        directory.take()
    except DirectoryInUse as error:
        running = directory.running()
        raise CommandFailed(
            str(error),
            f"it serves at {running.url}" if running else "give this one its own --data-dir",
            DIRECTORY_IN_USE,
        ) from error
    except OSError as error:
        raise CommandFailed(
            f"the data directory cannot be used: {error.strerror}", "choose another: --data-dir"
        ) from error
    try:
        yield
    finally:
        directory.release()


def _start(gateway: Gateway) -> None:
    try:
        gateway.start()
    except DatabaseUnusable as error:
        raise CommandFailed(str(error), error.fix) from error


def _token(directory: DataDirectory) -> str:
    try:
        return directory.token()
    except UnsafeFile as error:
        raise CommandFailed(str(error), code=BAD_CONFIG) from error


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """What HTTP is served on; nothing where only the native socket is wanted."""
    if handed := inherited():
        check_inherited(handed, settings)
        with contextlib.ExitStack() as open_ones:
            yield [open_ones.enter_context(listener) for listener in handed]
        return
    if settings.mode == "native":
        yield []
        return
    with bound(settings) as listener:
        yield [listener]


@contextlib.contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """The port that the settings name. Raises CommandFailed, which says who has it."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        if os.name == "posix":  # elsewhere the option lets two servers share one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(2048)
        except PermissionError as error:
            raise CommandFailed(
                f"port {settings.port} needs more rights", "choose another: --port 8081"
            ) from error
        except OSError as error:
            raise CommandFailed(
                f"port {settings.port} is taken{_by_whom(settings.port)}",
                f"choose another: tabagent serve --port {settings.port + 1}",
                PORT_TAKEN,
            ) from error
        yield listener


def _by_whom(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and getattr(connection.laddr, "port", None) == port:
                if connection.pid is None:
                    return ""
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # not ours to see
    return ""


class Server(uvicorn.Server):
    """uvicorn, with our way to start and to stop."""

    def __init__(
        self, gateway: Gateway, ready: Callable[[], None], notify: Notify = lambda _: None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                gateway.asgi,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                http=protocol_of(gateway.settings),
                server_header=False,
                timeout_graceful_shutdown=1,  # the gateway has drained by then
            )
        )
        self._gateway, self._ready, self._notify = gateway, ready, notify

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._gateway.open()
        except OSError as error:  # a file system without sockets, or one that is full
            raise CommandFailed(
                f"the browser's native socket cannot be made: {error.strerror or error}",
                "choose another --data-dir, or go without it: tabagent serve --mode http",
            ) from error
        await super().startup(sockets)
        self._gateway.started()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notify("STOPPING=1")
        # The port stays open meanwhile: who comes now is told that we are leaving.
        await self._gateway.stop()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # ten ticks are a second
            look_at(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def stop_at_end_of_input(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = self._gateway.hurry = True
        super().handle_exit(sig, frame)


def _serve(server: Server, listeners: list[socket.socket]) -> None:
    # uvicorn raises the signal again once it is done; by then there is nothing left to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(server.serve(listeners))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _greet(url: str, gateway: Gateway) -> None:
    model = gateway.services.models.selected
    where = f"at {url}" if url else "for the browser's native host alone"
    docs = f"  docs    {url}/swagger-ui/\n  openai  base_url={url}/v1\n" if url else ""
    browser = "  browser tabagent native install\n" if gateway.native.address else ""
    greeting = (
        f"\n  TabAgent {__version__} listens {where}\n\n"
        f"  model   {model} answers requests that name none\n"
        f"{docs}{browser}"
        f"  next    tabagent chat\n\n"
        f"  Ctrl-C stops it.\n"
    )
    with contextlib.suppress(OSError, ValueError):  # nobody looks
        print(greeting, flush=True)
