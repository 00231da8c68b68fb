"""What is measured on a running server, ours or the peer: one function for each kind of row."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks import load, prompts
from benchmarks.server import Server

UBATCH: Final = 512  # tokens that llama.cpp computes at once, on both sides


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of everything. Words are of prompt, tokens of answer, seconds of asking."""

    streams: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 128
    bursts: int = 3
    prefix: int = 1500
    intruder: int = 3000
    seconds: float = 4.0


@dataclass(frozen=True, slots=True)
class Decoding:
    """Tokens a second of all streams together, and microseconds of CPU for each token."""

    rate: float
    gateway_us: float
    client_us: float


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of all are not above (nearest rank)."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


async def decoding(server: Server, streams: int, tokens: int, seed: str) -> Decoding:
    """Short prompts, long answers. Counted while all of them run: prompts are other rows' matter."""
    server_cpu, client_cpu = cpu_seconds(server.process), time.process_time()
    chats = await load.run(server.port, prompts.chats(streams, 24, seed, tokens=tokens))
    server_cpu = cpu_seconds(server.process) - server_cpu
    client_cpu = time.process_time() - client_cpu
    since = max(chat.times[0] for chat in chats)
    until = min(chat.times[-1] for chat in chats)
    # An event is a token, unless the server was behind and sent two together.
    counted = sum(
        sum(since < at <= until for at in chat.times) * chat.tokens / len(chat.times)
        for chat in chats
    )
    total = streams * tokens
    return Decoding(counted / (until - since), server_cpu / total * 1e6, client_cpu / total * 1e6)


async def first_tokens(server: Server, seed: str, bursts: int) -> list[float]:
    """Seconds to the first token for eight chats at once that share nothing, burst after burst."""
    found: list[float] = []
    for burst in range(bursts):
        bodies = prompts.chats(8, 64, f"{seed}/{burst}", tokens=16)
        found += [chat.first for chat in await load.run(server.port, bodies)]
    return found


async def common_prefix(server: Server, seed: str, words: int) -> tuple[list[float], list[float]]:
    """Seconds to first tokens for eight chats at once that begin alike; cold, and asked again."""
    system = prompts.text(words, seed)
    bodies = [prompts.chat(16, f"{seed}/{n}", tokens=16, system=system, number=n) for n in range(8)]
    cold = [chat.first for chat in await load.run(server.port, bodies)]
    warm = [chat.first for chat in await load.run(server.port, bodies)]
    return cold, warm


async def intrusion(server: Server, seed: str, words: int) -> list[float]:
    """Seconds between tokens of four running chats while the prompt of a fifth is computed."""
    running = [await load.Chat.open(server.port) for _ in range(4)]
    bodies = prompts.chats(len(running), 24, seed, tokens=words)  # they never get so far
    try:
        for chat, body in zip(running, bodies, strict=True):
            chat.send(body)
        await asyncio.gather(*(chat.has(8) for chat in running))
        intruder = await load.Chat.open(server.port)  # no earlier: idle connections get closed
        intruder.send(prompts.chat(words, f"{seed}/intruder", tokens=1))
        await intruder.finished()
    finally:
        for chat in running:
            chat.hang_up()
    await asyncio.sleep(0.2)  # until both servers have noticed
    gaps: list[float] = []
    for chat in running:
        for before, after in zip(chat.times, chat.times[1:], strict=False):
            if after > intruder.sent and before < intruder.times[0]:
                gaps.append(after - before)
    return gaps


async def prefill_chunk(server: Server, seed: str) -> float:
    """Seconds that one batch of prompt takes on an idle server: what one step has to cost."""
    (chat,) = await load.run(server.port, [prompts.chat(UBATCH - 16, seed, tokens=1)])
    return chat.first


async def tokenizing(server: Server, seed: str, seconds: float) -> float:
    """Milliseconds to cut ten words into tokens, p50, over one connection."""
    request = load.post(server.port, server.tokenize, {server.text: prompts.text(10, seed)})
    times = await load.repeat(server.port, request, connections=1, seconds=seconds)
    return quantile(times, 0.5) * 1e3


async def health(server: Server, seconds: float) -> tuple[float, float]:
    """/health requests a second with the server on one core and who asks on the others.

    And how busy that core was with it, 0 to 1: well below 1 the number is the asker's.
    """
    with on_one_core(server.process):
        cpu, began = cpu_seconds(server.process), time.perf_counter()
        if WRK:
            rate = await asyncio.to_thread(_wrk, server.port, seconds)
        else:
            request = load.get(server.port, "/health")
            times = await load.repeat(server.port, request, connections=16, seconds=seconds)
            rate = len(times) / seconds
        busy = (cpu_seconds(server.process) - cpu) / (time.perf_counter() - began)
        return rate, busy


WRK: Final = shutil.which("wrk")


def _wrk(port: int, seconds: float) -> float:
    command = [WRK or "wrk", "-t1", "-c16", f"-d{max(1, round(seconds))}s"]
    url = f"http://{load.HOST}:{port}/health"
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s*([\d.]+)", said)
    assert rate is not None, said
    return float(rate[1])


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process without its children, so far."""
    # The kernel knows nanoseconds for each thread; psutil gets hundredths of a second, which is a
    # tenth of what some rows are about.
    files = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
    if files:
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def on_one_core(process: psutil.Process) -> Iterator[None]:
    """Keep all threads of `process` on the first core and this program on the others."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(cores) < 2:
        yield
        return
    first = min(cores)

    def place(where: set[int]) -> None:
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, where)

    place({first})
    os.sched_setaffinity(0, cores - {first})
    try:
        yield
    finally:
        place(cores)
        os.sched_setaffinity(0, cores)
