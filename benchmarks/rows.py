"""The rows about GGUF models: what is asked of both servers, and what the target is."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from benchmarks import load, measure, prompts
from benchmarks.llama_server import llama_server
from benchmarks.measure import Decoding, Effort, quantile
from benchmarks.pair import Pair, Runs, say
from benchmarks.server import Layout, Server
from benchmarks.tabagent_server import tabagent_with
from benchmarks.table import Row, Target

DECODE: Final = {1: 1.0, 4: 1.1, 8: 1.2, 16: 1.3}  # least ratio, by streams


async def decoded(pair: Pair, effort: Effort) -> dict[int, Runs[Decoding]]:
    """Decoding by number of streams."""
    found = {}
    for streams in effort.streams:

        async def one(server: Server, seed: str, streams: int = streams) -> Decoding:
            return await measure.decoding(server, streams, effort.tokens, seed)

        found[streams] = await pair.ask(f"decode {streams}", one)
    return found


def decode_rows(found: dict[int, Runs[Decoding]]) -> list[Row]:
    rows = []
    for streams, runs in found.items():
        rates = runs.each(lambda one: one.rate)
        what = f"decode, {streams} streamed chat{'s' if streams > 1 else ''}"
        target = Target("at least", DECODE[streams])
        rows.append(Row(what, "tok/s", rates.ours, rates.theirs, target))
    return rows


def cpu_row(found: dict[int, Runs[Decoding]], streams: int) -> Row:
    us = [one.gateway_us for one in found[streams].ours]
    what = f"gateway CPU a token, {streams} streams"
    return Row(what, "µs", us, target=Target("at most", 40, "value"))


def client_note(found: dict[int, Runs[Decoding]]) -> str:
    parts = []
    for streams, runs in found.items():
        us = runs.each(lambda one: one.client_us)
        parts.append(f"{median(us.ours):.0f} and {median(us.theirs):.0f} ({streams})")
    return f"The load generator took, in µs a token with ours and with theirs: {', '.join(parts)}."


async def first_token_rows(pair: Pair, effort: Effort) -> list[Row]:
    async def apart(server: Server, seed: str) -> list[float]:
        return await measure.first_tokens(server, seed, effort.bursts)

    async def alike(server: Server, seed: str) -> tuple[list[float], list[float]]:
        return await measure.common_prefix(server, seed, effort.prefix)

    def row(what: str, times: Runs[list[float]], share: float, limit: float | None) -> Row:
        ms = times.each(lambda one: quantile(one, share) * 1e3)
        return Row(what, "ms", ms.ours, ms.theirs, Target("at most", limit) if limit else None)

    cold = await pair.ask("first token", apart)
    both = await pair.ask("common prefix", alike)
    first, again = both.each(lambda one: one[0]), both.each(lambda one: one[1])
    name = f"first token, 8 with {effort.prefix:,} words in common"
    return [
        row("first token, 8 cold prompts, p50", cold, 0.5, 1.0),
        row("first token, 8 cold prompts, p95", cold, 0.95, 1.0),
        row(f"{name}, p50", first, 0.5, 0.3),
        row(f"{name}, worst", first, 1.0, 0.3),
        row(f"{name}, asked again, p50", again, 0.5, None),
    ]


async def intrusion_rows(pair: Pair, effort: Effort) -> list[Row]:
    async def one(server: Server, seed: str) -> float:
        return quantile(await measure.intrusion(server, seed, effort.intruder), 0.99)

    chunk = await pair.ask("prefill chunk", measure.prefill_chunk)
    gap = await pair.ask("long prompt", one)
    ours = [seconds / median(chunk.ours) for seconds in gap.ours]
    theirs = [seconds / median(chunk.theirs) for seconds in gap.theirs]
    ms = gap.each(lambda seconds: seconds * 1e3)
    what = f"gap p99 while {effort.intruder:,} words arrive"
    return [
        Row(what, "ms", ms.ours, ms.theirs),
        Row(f"{what}, in prefill chunks", "", ours, theirs, Target("at most", 2, "value")),
    ]


async def plain_rows(pair: Pair, effort: Effort) -> tuple[list[Row], str]:
    """Rows without a model's work, and how /health was asked."""

    async def health(server: Server, seed: str) -> tuple[float, float]:
        return await measure.health(server, effort.seconds)

    async def tokenize(server: Server, seed: str) -> float:
        return await measure.tokenizing(server, seed, effort.seconds / 2)

    asked, cut = await pair.ask("health", health), await pair.ask("tokenize", tokenize)
    rate, busy = asked.each(lambda one: one[0]), asked.each(lambda one: one[1])
    least = Target("at least", 20_000, "value")
    return [
        Row("/health on one core", "req/s", rate.ours, rate.theirs, least),
        Row("tokenize ten words, p50", "ms", cut.ours, cut.theirs, Target("at most", 1.5, "value")),
    ], (
        f"/health was asked over 16 connections by {'wrk' if measure.WRK else 'our own client'}; "
        f"that kept the server's core busy to {median(busy.ours):.0%} (ours) and "
        f"{median(busy.theirs):.0%} (theirs)."
    )


async def load_row(layout: Layout, runs: int, more: list[str]) -> Row:
    """Seconds until a model that nobody had loaded has given its first token.

    llama-server is started for it; our gateway runs, and starts a worker. The token belongs to it
    because one side touches the weights before it says that it is ready, the other does not.
    """
    body = prompts.chat(1, "load", tokens=1)
    seconds: Runs[float] = Runs()
    for run in range(runs):
        say(f"load, run {run + 1} of {runs}")
        with tabagent_with(layout) as server:
            (chat,) = await load.run(server.port, [body])
            seconds.ours.append(chat.first)
        with llama_server(layout, more) as server:
            await load.run(server.port, [body])
            seconds.theirs.append(time.perf_counter() - server.began)
    say("")
    what = "load to first token, page cache warm"
    return Row(what, "s", seconds.ours, seconds.theirs, Target("at most", 1.1))
