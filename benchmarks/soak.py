"""A mixed load for minutes: whether every answer is right, and everything is given back after it.

Run by `make soak`. A fixed number of clients draw what they do from seeded generators; once a
second every process of the server is looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from benchmarks import soak_report
from benchmarks.actions import MIX, Client, Surprise
from benchmarks.load import HOST, LoadError
from benchmarks.pair import say
from benchmarks.server import Server
from benchmarks.soaked import Rows, Soaked, Tally, checks
from benchmarks.tabagent_server import tabagent
from benchmarks.vitals import Vitals, vitals
from tabagent.commands.serve import loop_factory
from tests.worker.tiny_pooling import write_bert

EMBEDDER: Final = "local/soak-embedder"
ACTION_S: Final = 60.0  # an action that takes longer hangs
QUIET_S: Final = 30.0  # what was begun is over by then: hang-ups noticed, connections timed out
SAMPLE_S: Final = 1.0
# Ended conversations fill this early in a run; from then on a worker is flat, or it leaks.
KEPT_BYTES: Final = 16 * 2**20


async def act(kind: str, client: Client, tally: Tally) -> None:
    """Do one thing and note how it went."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(ACTION_S):
            await MIX[kind][1](client)
    except TimeoutError:
        tally.failures.append(f"no end after {ACTION_S:g} s")
    except (Surprise, LoadError, httpx.HTTPError, OSError) as error:
        tally.failures.append(f"{type(error).__name__}: {error}")
    except (ValueError, LookupError, TypeError) as error:  # the answer has another shape
        tally.failures.append(f"not what it should look like: {error!r}")
    tally.seconds.append(time.perf_counter() - began)


async def soak(
    seconds: float, *, clients: int = 12, seed: str = "soak", memory: bool = True
) -> Soaked:
    """Start a server, keep the load on it for so long, and check. `memory`: also that it is flat."""
    with tempfile.TemporaryDirectory() as folder:
        write_bert(Path(folder) / f"{EMBEDDER.partition('/')[2]}.gguf")
        settings = {
            "MODELS_DIR": folder,
            "LOG_LEVEL": "warning",
            "PROMPT_CACHE_BYTES": str(KEPT_BYTES),
        }
        with tabagent(settings) as server:
            return await _soaked(server, seconds, clients, seed, memory)


async def _soaked(server: Server, seconds: float, clients: int, seed: str, memory: bool) -> Soaked:
    say("warming up")
    started: dict[str, Tally] = defaultdict(Tally)
    async with _http(server) as http:
        first = Client(http, server.port, random.Random(seed), EMBEDDER)
        # Everything there is to start is started: workers, their children, pools of threads.
        for _ in range(3):
            for kind in MIX:
                await act(kind, first, started[kind])
    rows = await _quiet(server, {})
    workers = {row["pid"]: row["model"] for row in rows}
    result = Soaked(seconds, clients, vitals(server.process, workers))
    for kind, tally in started.items():
        result.tallies[kind].failures += tally.failures
    await _load(server, result, workers, seed)
    say("waiting for quiet")
    after = await _quiet(server, result.before)
    result.after = vitals(server.process, workers)
    result.checks = checks(result, rows, after, memory)
    say("")
    return result


def _http(server: Server) -> httpx.AsyncClient:
    # Connections are dropped well before the server drops them, so that no request meets its end.
    limits = httpx.Limits(keepalive_expiry=2)
    return httpx.AsyncClient(
        base_url=f"http://{HOST}:{server.port}", timeout=ACTION_S, trust_env=False, limits=limits
    )


async def _load(server: Server, result: Soaked, workers: Mapping[int, str], seed: str) -> None:
    """Keep all clients busy, and look at the processes meanwhile."""
    began = time.perf_counter()

    def elapsed() -> float:
        return time.perf_counter() - began

    async def ask(client: Client) -> None:
        kinds, weights = list(MIX), [weight for weight, _ in MIX.values()]
        while elapsed() < result.seconds:
            (kind,) = client.draw.choices(kinds, weights)
            await act(kind, client, result.tallies[kind])

    async def watch() -> None:
        while True:
            for role, seen in (await asyncio.to_thread(vitals, server.process, workers)).items():
                result.histories[role].add(elapsed(), seen)
            done = sum(len(tally.seconds) for tally in result.tallies.values())
            say(f"{elapsed():.0f} of {result.seconds:.0f} s, {done:,} actions")
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.create_task(watch())
    async with _http(server) as http, asyncio.TaskGroup() as group:
        for number in range(result.clients):
            draw = random.Random(f"{seed}/{number}")
            group.create_task(ask(Client(http, server.port, draw, EMBEDDER)))
    watching.cancel()
    await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()  # it ends only by failing


async def _quiet(server: Server, before: Mapping[str, Vitals]) -> Rows:
    """The loaded models once nothing runs and descriptors are `before`'s, or QUIET_S have passed."""
    deadline = time.perf_counter() + QUIET_S
    while True:
        await asyncio.sleep(0.5)
        rows = await _loaded(server)
        now = vitals(server.process, {row["pid"]: row["model"] for row in rows})
        idle = not any(row["slots_used"] or row["queue"] for row in rows)
        closed = all(now[r].descriptors <= v.descriptors for r, v in before.items() if r in now)
        if (idle and closed) or time.perf_counter() > deadline:
            return rows


async def _loaded(server: Server) -> Rows:
    """By a connection of its own, which is closed again."""
    async with _http(server) as http:
        rows: Rows = (await http.get("/v1/models/loaded")).json()["data"]
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", default="soak", help="of what the clients draw")
    parser.add_argument("--output", type=Path, help="append the tables as Markdown, too")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as loop:
        result = loop.run(soak(given.minutes * 60, clients=given.clients, seed=given.seed))
    soak_report.show(result)
    if given.output:
        with given.output.open("a") as file:
            file.write(soak_report.markdown(result))
    sys.exit(0 if result.passed else 1)


if __name__ == "__main__":
    main()
