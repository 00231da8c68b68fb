"""Children: nothing of ours runs between fork and exec, and their end is heard of."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, sys
import uvloop
from tabagent.spawn import spawn

class Parent:
    def __init__(self):
        self.heard, self.words, self.open = b"", b"", {1, 2}
        self.ended, self.closed = asyncio.Event(), asyncio.Event()
    def spawned(self, child):
        self.child = child
    def pipe_data_received(self, fd, data):
        if fd == 1:
            self.heard += data
        else:
            self.words += data
    def pipe_connection_lost(self, fd, exc):
        self.open.discard(fd)
        if not self.open:
            self.closed.set()
    def process_exited(self):
        self.ended.set()

async def main():
    parent = Parent()
    os.register_at_fork(after_in_child=lambda: os.write(2, b"a hook ran in the child"))
    child = "import sys; sys.stderr.write('last'); print(sys.stdin.readline().strip()); sys.exit(3)"
    await spawn(parent, [sys.executable, "-c", child], env=dict(os.environ), words=True)
    parent.child.write(b"hello\\n")
    await asyncio.wait_for(parent.ended.wait(), 20)
    await asyncio.wait_for(parent.closed.wait(), 20)
    parent.child.write(b"nobody is there")
    parent.child.kill()
    print(parent.heard, parent.words, parent.child.get_returncode())

{run}
"""


@pytest.mark.parametrize(
    "run", ["uvloop.run(main())", "asyncio.run(main())"], ids=["uvloop", "asyncio"]
)
def test_a_child_is_heard_to_its_end_and_no_hook_runs_in_it(run: str, tmp_path: Path) -> None:
    program = textwrap.dedent(PROGRAM).replace("{run}", run)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout.strip() == "b'hello\\n' b'last' 3", done.stdout + done.stderr
    assert "a hook ran" not in done.stderr
