"""TabAgent beside llama-server on one GGUF file: the rows of the performance targets, as ratios.

Both servers run with the same model, threads, slots and context and are asked in turn, with the
same prompts; whoever is not asked is idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import rows
from benchmarks.llama_server import built, llama_server
from benchmarks.measure import Effort
from benchmarks.model import model
from benchmarks.pair import Pair, say
from benchmarks.server import Layout
from benchmarks.tabagent_server import tabagent_with
from benchmarks.table import Row, machine, markdown, show
from tabagent.commands.serve import loop_factory

QUICK: Final = Effort((1, 4), tokens=32, bursts=1, prefix=300, intruder=1200, seconds=1.0)


async def measured(
    shape: str, effort: Effort, runs: int, threads: int, more: list[str]
) -> tuple[list[Row], list[str]]:
    """The table's rows and its notes. `more` goes to llama-server."""
    file = model(shape)
    wide = Layout(file, slots=max(8, *effort.streams), n_ctx=1024, threads=threads)
    with tabagent_with(wide) as ours, llama_server(wide, more) as theirs:
        pair = Pair(ours, theirs, runs)
        await pair.agree()
        decoded = await rows.decoded(pair, effort)
    deep = Layout(file, slots=8, n_ctx=4096, threads=threads)
    with tabagent_with(deep) as ours, llama_server(deep, more) as theirs:
        pair = Pair(ours, theirs, runs)
        await pair.agree()
        first_token = await rows.first_token_rows(pair, effort)
        intrusion = await rows.intrusion_rows(pair, effort)
        plain, asked = await rows.plain_rows(pair, effort)
    load = await rows.load_row(deep, runs, more)
    streams = max(number for number in effort.streams if number <= 8)
    return [
        *rows.decode_rows(decoded),
        *first_token,
        *intrusion,
        rows.cpu_row(decoded, streams),
        *plain,
        load,
    ], [
        machine(),
        f"Random weights in the shape of a {shape} Llama in Q8_0 ({file.stat().st_size / 2**20:.0f} "
        f"MiB, 151,936 tokens of vocabulary), {threads} threads. llama-server comes from "
        f"llama-cpp-python's own source and runs at its defaults{' and ' * bool(more)}"
        f"{' '.join(more)}. Medians of runs in turn ({runs}), least and most in brackets; no prompt "
        f"is used in two runs. Decode with {wide.slots} slots of {wide.n_ctx:,} tokens, the rest "
        f"with {deep.slots} of {deep.n_ctx:,}.",
        split_note(shape, streams, effort, threads, median(r.rate for r in decoded[streams].ours)),
        rows.client_note(decoded),
        asked,
    ]


def split_note(shape: str, streams: int, effort: Effort, threads: int, rate: float) -> str:
    """Where our time for a token goes; measured in a process of its own, as the worker is one."""
    say("split")
    command = [sys.executable, "-m", "benchmarks.split", "--json", "--shape", shape]
    command += ["--streams", str(streams), "--tokens", str(effort.tokens)]
    command += ["--threads", str(threads)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said)
    say("")
    whole = 1e6 / rate
    transport = whole - found["decode"] - found["sample"] - found["rest"]
    return (
        f"With {streams} streams a token takes us {whole:,.0f} µs over HTTP: decode "
        f"{found['decode']:,.0f}, sample {found['sample']:,.0f}, scheduling and text "
        f"{found['rest']:,.0f}; what is left for transport is {transport:,.0f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, help="5 when left out, 1 with --quick")
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp, for either server")
    parser.add_argument("--quick", action="store_true", help="a small model, little of everything")
    parser.add_argument("--output", type=Path, help="write the table as Markdown, too")
    parser.add_argument(
        "--llama-server", default="", metavar="ARGUMENTS", help="more of them, in one string"
    )
    given = parser.parse_args()
    built()
    shape, effort = ("tiny", QUICK) if given.quick else ("135m", Effort())
    runs = given.runs or (1 if given.quick else 5)
    more = given.llama_server.split()
    with asyncio.Runner(loop_factory=loop_factory()) as loop:
        found, notes = loop.run(measured(shape, effort, runs, given.threads, more))
    show(found, notes)
    if given.output:
        given.output.write_text(markdown("TabAgent beside llama-server", found, notes))


if __name__ == "__main__":
    main()
