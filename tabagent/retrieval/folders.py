"""Folders whose files are documents: looked over first, then only what changed is read."""

from __future__ import annotations

import asyncio
import fnmatch
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import time
from typing import Final

import structlog

from tabagent.errors import NotFound, TabAgentError
from tabagent.retrieval.index import Index
from tabagent.retrieval.ingest import Ingest
from tabagent.retrieval.jobs import Jobs, LiveJob
from tabagent.stores.papers import Document, Folder, Incoming, Job
from tabagent.stores.records import Records

log = structlog.get_logger(__name__)

PATTERNS: Final = (
    "*.txt", "*.text", "*.md", "*.markdown", "*.rst", "*.org", "*.tex", "*.html", "*.htm",
    "*.xhtml", "*.pdf", "*.docx", "*.csv", "*.json", "*.yaml", "*.yml", "*.toml", "*.py", "*.js",
    "*.ts", "*.c", "*.h", "*.cpp", "*.rs", "*.go", "*.java", "*.sh", "*.sql",
)  # fmt: skip
SKIPPED: Final = ("node_modules", "__pycache__", "venv", "dist", "build")
ROWS: Final = 500  # of one transaction
LOOK_S: Final = 5.0  # between two looks at whether a folder is due


class Folders:
    """`tell` hears of documents whose files are gone."""

    def __init__(
        self,
        records: Records,
        jobs: Jobs,
        ingest: Ingest,
        index: Index,
        tell: Callable[[Document], None],
    ) -> None:
        self._records, self._jobs, self._ingest = records, jobs, ingest
        self._index, self._tell = index, tell
        self._watcher: asyncio.Task[None] | None = None
        self._began = time()

    async def scan(self, folder: Folder) -> LiveJob:
        """Begin a job that brings the collection in line with the folder."""
        job = Job.new("folder", folder.collection, self._records.writer, subject=folder.id)
        await self._records.jobs.create(job)
        return self._jobs.begin(job, self.work)

    def watch(self) -> None:
        """Look over watched folders, now and at their intervals."""
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])

    async def _watch(self) -> None:
        while True:
            try:
                folders = await self._records.collections.folders()
                for folder in folders:
                    last = folder.scanned_at or 0
                    due = last < self._began or time() - last >= folder.every_s
                    if folder.watch and due and not self._jobs.at_work(folder.collection):
                        await self.scan(folder)
            except TabAgentError as error:
                log.warning("folders_not_watched", code=error.slug)
            await asyncio.sleep(LOOK_S)

    async def work(self, live: LiveJob) -> None:
        """Look the folder over, from the beginning, and read what is not known."""
        folder = await self._records.collections.folder(live.job.subject)
        # Now, so that one that cannot be read is not looked over again and again.
        await self._records.collections.scanned(folder.id)
        live.job.counts.clear()
        live.job.failures.clear()
        await self._records.jobs.forget(live.job.id)
        files, closed = await asyncio.to_thread(_files, Path(folder.path), folder.patterns)
        known = await self._records.collections.stats(folder.id)
        gone = [
            id_
            for source, (id_, _) in known.items()
            if source not in files and not source.startswith(closed)
        ]
        changed: list[Incoming] = []
        for source, (path, stat) in files.items():
            refused = self._ingest.refused.get((folder.collection, source))
            if source in known and known[source][1] == stat:
                live.job.count("unchanged")
            elif refused is not None and refused[0] == stat:  # reading it may take half a minute
                live.job.count("failed" if refused[1] else "skipped")
                if refused[1]:
                    live.job.fail(source, refused[1])
            else:
                changed.append(
                    Incoming(live.job.id, folder.collection, source, folder.id, path, stat)
                )
        live.job.total = len(files) + len(gone)
        for start in range(0, max(len(changed), 1), ROWS):
            await self._records.jobs.add(live.job, changed[start : start + ROWS])
        await self.forget(live.job.collection, gone)
        if gone:
            live.job.count("removed", len(gone))
        self._jobs.told(live)
        await self._ingest.work(live)

    async def forget(self, collection: str, document_ids: list[str]) -> list[Document]:
        """Take documents out of the database and the index. Returns those that were there."""
        if not document_ids:
            return []
        async with self._ingest.turns[collection]:
            there, numbers = await self._records.documents.delete(document_ids)
            found = await self._records.collections.get(collection)
            for model in found.models:
                await self._index.change(collection, model, [], numbers)
        for document in there:
            self._tell(document)
        return there


def _files(
    root: Path, patterns: Iterable[str]
) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """(path, size and time of change) of each file to be read, by its source, in order; and the
    folders that could not be looked into, of whose files nothing is known.
    """
    if not root.exists():
        raise NotFound("the folder is not there")
    closed: list[str] = []

    def note(error: OSError) -> None:
        closed.append(Path(str(error.filename)).as_uri() + "/")

    wanted = [pattern.lower() for pattern in patterns] or PATTERNS
    found: dict[str, tuple[str, str]] = {}
    places = (
        [(str(root.parent), [], [root.name])] if root.is_file() else os.walk(root, onerror=note)
    )
    for place, folders, names in places:
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED)
        for name in sorted(names):
            if name.startswith(".") or not any(fnmatch.fnmatch(name.lower(), p) for p in wanted):
                continue
            path = Path(place, name)
            try:
                stat = path.stat()
            except OSError:
                continue  # it went just now, or leads nowhere
            found[path.as_uri()] = str(path), f"{stat.st_size}:{stat.st_mtime_ns}"
    return found, tuple(closed)
