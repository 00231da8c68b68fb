"""Pulls as jobs of the server: they outlive who asked, and a crash.

A job is a small file in the data directory, written durably before the first byte is asked for. How
far it is, is what lies on the disk: nothing else has to be kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, Literal

import structlog

from tabagent.errors import (
    Conflict,
    InsufficientStorage,
    InternalError,
    NotFound,
    TabAgentError,
)
from tabagent.hub.patience import PATIENT, Patience
from tabagent.hub.repository import RemoteFile, Repository, Variant

log = structlog.get_logger(__name__)

State = Literal["queued", "downloading", "done", "cancelled", "failed"]
MARGIN: Final = 2 * 2**30  # bytes that stay free on the disk
AT_ONCE: Final = 2
TELL_S: Final = 0.2  # at most so often a follower is told
MANIFEST: Final = ".tabagent.json"
PARTS: Final = ".partial"


@dataclass(eq=False)
class Job:
    """One pull. `had` bytes were there when it last began, `have` are now."""

    id: str
    repo: str
    commit: str
    variant: str
    files: list[RemoteFile]
    created: float
    state: State = "queued"
    file: str = ""
    have: int = 0
    had: int = 0
    began: float = 0.0  # monotonic
    error: TabAgentError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def model(self) -> str:
        return f"{self.repo}:{self.variant}"

    @property
    def total(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def running(self) -> bool:
        return self.state in ("queued", "downloading")

    @property
    def rate(self) -> float:
        """Bytes a second since it last began."""
        seconds = monotonic() - self.began if self.began else 0.0
        return max(0, self.have - self.had) / seconds if seconds > 0.1 else 0.0


class Jobs:
    """Every pull of this server. `folder` keeps their records, `models` gets the files.

    `tell` hears of every change, also of every few bytes that come.
    """

    def __init__(
        self,
        folder: Path,
        models: Path,
        endpoint: str,
        token: Callable[[], str | None],
        *,
        patience: Patience = PATIENT,
        free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        tell: Callable[[Job], None] | None = None,
    ) -> None:
        self._folder, self.models = folder, models
        self._endpoint, self._token = endpoint, token
        self._patience, self._free, self._tell = patience, free, tell
        self._jobs: dict[str, Job] = {}
        self._read = False  # whether the records of an earlier server are
        self._turns = asyncio.Semaphore(AT_ONCE)

    def all(self) -> list[Job]:
        if not self._read:
            self._read = True
            self._known()
        return sorted(self._jobs.values(), key=lambda job: job.created)

    def get(self, job_id: str) -> Job:
        found = next((job for job in self.all() if job.id == job_id), None)
        if found is None:
            raise NotFound(f"there is no pull {job_id}")
        return found

    def running(self, model: str) -> Job | None:
        return next((job for job in self.all() if job.running and job.model == model), None)

    def here(self, repo: str) -> set[str]:
        """Which of a repository's files are on this machine."""
        folder = self.models.joinpath(*repo.split("/"))
        return {file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")}

    def _known(self) -> None:
        """Read the records of an earlier server: what it had not finished can be resumed."""
        for file in sorted(self._folder.glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads(file.read_text())
                files = [RemoteFile(**one) for one in record.pop("files")]
                job = Job(files=files, **record)
                job.state, job.have = "cancelled", self._there(job)
                self._jobs.setdefault(job.id, job)

    async def start(self, found: Repository, variant: Variant) -> Job:
        """A new job, or the one that pulls the same already or has pulled a part of it."""
        model = f"{found.id}:{variant.name}"
        for job in self.all():
            if job.model == model and job.commit == found.commit and job.state != "done":
                return job if job.running else await self.resume(job.id)
        job = Job(
            uuid.uuid4().hex[:12], found.id, found.commit, variant.name, list(variant.files), time()
        )
        job.have = await asyncio.to_thread(self._there, job)
        await asyncio.to_thread(self._check_disk, job)
        await asyncio.to_thread(self._record, job)
        self._jobs[job.id] = job
        self._begin(job)
        return job

    async def resume(self, job_id: str) -> Job:
        """Go on with what was cancelled, failed or cut off."""
        job = self.get(job_id)
        if job.state == "done":
            raise Conflict(f"{job.model} is here already")
        if not job.running:
            await asyncio.to_thread(self._check_disk, job)
            self._begin(job)
        return job

    async def cancel(self, job_id: str) -> Job:
        """Stop; what has come is kept for another try."""
        job = self.get(job_id)
        if job.task and job.running:
            job.task.cancel()
            with suppress(asyncio.CancelledError):
                await job.task
        return job

    async def follow(self, job: Job) -> AsyncGenerator[Job, None]:
        """The job at every change until its end, at most five times a second."""
        while True:
            job.changed.clear()
            yield job
            if not job.running:
                return
            await job.changed.wait()
            if job.running:
                await asyncio.sleep(TELL_S)

    async def stop(self) -> None:
        for job in list(self._jobs.values()):
            await self.cancel(job.id)

    # ---- one job --------------------------------------------------------------------------------
    def _begin(self, job: Job) -> None:
        job.state, job.error = "queued", None
        self._note(job)
        job.task = asyncio.get_running_loop().create_task(self._run(job))

    def _note(self, job: Job) -> None:
        job.changed.set()
        if self._tell:
            self._tell(job)

    async def _run(self, job: Job) -> None:
        try:
            async with self._turns:
                job.state, job.had, job.began = "downloading", job.have, monotonic()
                self._note(job)
                await self._pull(job)
            job.state = "done"
            await asyncio.to_thread(self._finish, job)
        except asyncio.CancelledError:
            job.state = "cancelled"
        except TabAgentError as error:
            job.state, job.error = "failed", error
            log.warning("pull_failed", model=job.model, code=error.slug)
        except Exception as error:
            job.state, job.error = "failed", InternalError("the pull failed; the log has the cause")
            log.error("pull_failed", model=job.model, exc_info=error)
        finally:
            job.began = 0.0
            self._note(job)

    async def _pull(self, job: Job) -> None:
        import httpx  # 70 ms that a start without a pull need not wait

        from tabagent.hub.download import Download

        timeout = httpx.Timeout(self._patience.stall_s)
        async with httpx.AsyncClient(timeout=timeout, trust_env=True) as client:
            before = 0
            for file in job.files:

                def note(bytes_: int, before: int = before) -> None:
                    job.have = before + bytes_
                    self._note(job)

                job.file = file.path
                target = self._target(job, file)
                if not target.exists():
                    download = Download(client, self._endpoint, self._token(), note, self._patience)
                    await download.fetch(job.repo, job.commit, file, self._part(job, file), target)
                before += file.size
                note(0, before)

    def _target(self, job: Job, file: RemoteFile) -> Path:
        return self.models.joinpath(*job.repo.split("/"), *file.path.split("/"))

    def _part(self, job: Job, file: RemoteFile) -> Path:
        # Named after what it will be: another job for the same bytes goes on with them.
        return self.models / PARTS / f"{file.proof}.part"

    def _there(self, job: Job) -> int:
        total = 0
        for file in job.files:
            for place in (self._target(job, file), self._part(job, file)):
                if place.exists():
                    total += min(file.size, place.stat().st_size)
                    break
        return total

    def _check_disk(self, job: Job) -> None:
        self.models.mkdir(parents=True, exist_ok=True)
        required, free = job.total - job.have + MARGIN, self._free(self.models)
        if free < required:
            raise InsufficientStorage(
                f"{job.model} needs {(job.total - job.have) / 1e9:.2f} GB and 2 GiB are kept free; "
                f"the disk has {free / 1e9:.2f} GB",
                required_bytes=required,
                available_bytes=free,
            )

    def _record(self, job: Job) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record: dict[str, Any] = {
            "id": job.id, "repo": job.repo, "commit": job.commit, "variant": job.variant,
            "created": job.created, "files": [asdict(file) for file in job.files],
        }  # fmt: skip
        write_durably(self._folder / f"{job.id}.json", json.dumps(record))

    def _finish(self, job: Job) -> None:
        """Note what is ours now; the record of the job is not needed any more."""
        manifest = self.models.joinpath(*job.repo.split("/")) / MANIFEST
        owned = owned_files(manifest.parent)
        owned |= {file.path: file.proof for file in job.files}
        write_durably(manifest, json.dumps({"commit": job.commit, "files": owned}))
        (self._folder / f"{job.id}.json").unlink(missing_ok=True)


def owned_files(folder: Path) -> dict[str, str]:
    """Files of a repository's folder that were pulled, and their digests."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return {str(path): str(digest) for path, digest in files.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def write_durably(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
