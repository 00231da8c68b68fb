"""A server as the host sees one: a lock, `runtime.json`, a socket. Run as a process; does as told.

It tells of each message what came, as a digest, unless the message's route wants something else.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

VERSION = "9.9.9"
TOKEN = "f" * 64


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, sys.byteorder) + body


def read(incoming: BinaryIO) -> bytes | None:
    header = incoming.read(4)
    if len(header) < 4:
        return None
    body = incoming.read(int.from_bytes(header, sys.byteorder))
    return body if len(body) == int.from_bytes(header, sys.byteorder) else None


def as_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def answers(message: dict[str, Any], body: bytes, preface: Any) -> Any:
    """Bodies that answer one message."""
    given = message.get("payload") or {}
    route, id_ = message.get("route"), message.get("request_id")
    if route == "preface":
        yield json.dumps({"request_id": id_, "success": True, "data": preface}).encode()
    elif route == "many":
        text = "x" * given["size"]
        for seq in range(given["count"]):
            chunk = {"request_id": id_, "event": "chunk", "seq": seq, "data": text}
            yield json.dumps(chunk).encode()
    elif route == "exactly":
        start = json.dumps({"request_id": id_, "data": ""})[:-2].encode()
        yield start + b"x" * (given["bytes"] - len(start) - 2) + b'"}'
    else:
        data = {"bytes": len(body), "digest": hashlib.sha256(body).hexdigest()}
        yield json.dumps({"request_id": id_, "success": True, "data": data}).encode()


def serve(peer: socket.socket, token: str) -> None:
    with contextlib.suppress(OSError), peer, peer.makefile("rb") as incoming:
        preface = as_object(read(incoming) or b"")
        if token and preface.get("token") != token:
            return
        while (body := read(incoming)) is not None:
            message = as_object(body)
            route = message.get("route")
            if route == "die":
                os._exit(9)
            if route == "hang up":
                return
            if route == "stall":
                time.sleep(60)
            for answer in answers(message, body, preface):
                peer.sendall(framed(answer))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--words", default="")
    parser.add_argument("--code", type=int, default=0)
    parser.add_argument("--only-with-port", action="store_true")
    parser.add_argument("--http-alone", action="store_true")
    given = parser.parse_args()
    signal.alarm(60)  # no test takes longer, and one that was lost sight of ends
    place: Path = given.data_dir
    with (place / "starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    print("starting", given.words, sep="\n", flush=True)
    if given.code:
        sys.exit(given.code)
    if given.only_with_port and given.port is None:
        print("Error: port 8080 is taken", flush=True)
        sys.exit(3)
    lock = (place / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("Error: another server uses this data directory", flush=True)
        sys.exit(75)
    time.sleep(given.delay)
    native: dict[str, Any] | None
    if given.tcp:
        listener = socket.create_server(("127.0.0.1", 0))
        native = {"port": listener.getsockname()[1], "token": TOKEN}
    else:
        path = place / "native.sock"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(64)
        native = {"path": str(path)}
    running = {"pid": os.getpid(), "url": "", "version": VERSION, "native": native}
    if given.http_alone:
        running["native"] = None
    draft = place / "runtime.new"
    draft.write_text(json.dumps(running))
    draft.replace(place / "runtime.json")
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=serve, args=(peer, TOKEN * given.tcp), daemon=True).start()


if __name__ == "__main__":
    main()
