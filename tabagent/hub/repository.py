"""What a repository on the hub holds: files with sizes and digests, and the variants they make."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tabagent.catalog.variant import (
    DESCRIBED,
    POOLING,
    belongs_to,
    is_described_by,
    is_layout,
    is_onnx,
    is_projector,
    layout_variant,
    part_of,
    rank,
    variant_of,
)
from tabagent.errors import (
    AccessDenied,
    InvalidRequest,
    ModelNotFound,
    NotAvailableHere,
    TabAgentError,
    UnsupportedModel,
    UpstreamInvalid,
    UpstreamUnreachable,
)

REPOSITORY: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?<!\.git)"
)
_PATH: Final = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]{0,120}/){0,4}[A-Za-z0-9_][A-Za-z0-9._+-]{0,180}"
)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
LISTING_S: Final = 15.0
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
BEST: Final = "best"
BURDEN: Final = 1_500_000_000  # bytes
LARGEST_TEXT: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`digest` is the SHA-256 of a large file (git LFS), `blob` the git object id of any."""

    path: str
    size: int
    digest: str | None
    blob: str | None

    @property
    def proof(self) -> str:
        """What its bytes must come to: one of the two, SHA-256 where there is one."""
        return self.digest or self.blob or ""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of a repository's forms of the model: all its files."""

    name: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as it is at `commit`."""

    id: str
    commit: str
    variants: tuple[Variant, ...]  # the largest first


def check_name(name: str) -> tuple[str, str | None]:
    """`owner/repo` or `owner/repo:VARIANT` in its halves. Raises InvalidRequest."""
    repo, _, variant = name.partition(":")
    if not REPOSITORY.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InvalidRequest(
            f"{name!r} is not the name of a repository: owner/repo, or owner/repo:VARIANT",
            param="model",
            errors=[{"pointer": "/model", "detail": "owner/repo or owner/repo:VARIANT"}],
        )
    return repo, variant or None


async def repository(repo_id: str, endpoint: str, token: str | None) -> Repository:
    """Ask the hub. Raises ModelNotFound, AccessDenied, UpstreamUnreachable, UpstreamInvalid,
    UnsupportedModel where nothing in it can run here, NotAvailableHere offline.
    """
    return await asyncio.to_thread(_ask, repo_id, endpoint, token)


def _ask(repo_id: str, endpoint: str, token: str | None) -> Repository:
    # A third of a second to import: only who pulls pays it.
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    try:
        found = HfApi(endpoint=endpoint, token=token or False).model_info(
            repo_id, files_metadata=True, timeout=LISTING_S
        )
    except hub.GatedRepoError as error:
        raise AccessDenied(
            f"{repo_id} is gated: accept its terms on the hub, and give a token of that account "
            "with `tabagent hf-token`"
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        raise ModelNotFound(
            f"the hub has no repository {repo_id}, or it is private and needs a token",
            param="model",
            model=repo_id,
            pull_hint="check the name; for a private one: tabagent hf-token",
        ) from error
    except hub.OfflineModeIsEnabled as error:
        raise NotAvailableHere("HF_HUB_OFFLINE is set", what="pull", why="offline") from error
    except hub.HFValidationError as error:
        raise check_failed(repo_id) from error
    except Exception as error:
        raise _unreachable(endpoint, error) from error
    return _read(repo_id, found)


def check_failed(repo_id: str) -> InvalidRequest:
    return InvalidRequest(f"{repo_id!r} is not the name of a repository", param="model")


def _unreachable(endpoint: str, error: Exception) -> TabAgentError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return AccessDenied("the hub refuses: the token is missing, wrong or holds too little")
    if status is not None:
        return UpstreamUnreachable(f"the hub answered with status {status}")
    return UpstreamUnreachable(f"the hub at {endpoint} cannot be reached: {type(error).__name__}")


def _read(repo_id: str, info: Any) -> Repository:
    commit = str(info.sha or "")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UpstreamInvalid("the hub's answer names no commit")
    files = [file for sibling in info.siblings or () if (file := _file(sibling)) is not None]
    variants = _variants(files)
    if not variants:
        raise UnsupportedModel(
            f"{repo_id} holds neither a GGUF file nor an ONNX model that this version can run",
            architecture="unknown",
        )
    return Repository(repo_id, commit, variants)


def _file(sibling: Any) -> RemoteFile | None:
    """A file that may be asked for; None for any other, whatever its name tries."""
    path, size = str(sibling.rfilename), sibling.size
    gguf, described = path.lower().endswith(".gguf"), is_described_by(path)
    if not _PATH.fullmatch(path) or ".." in path or not (gguf or described or is_onnx(path)):
        return None
    digest = getattr(sibling.lfs, "sha256", None) if sibling.lfs else None
    if not isinstance(size, int) or size <= 0:
        return None
    if digest is not None and not _SHA256.fullmatch(digest):
        raise UpstreamInvalid(f"the hub's digest of {path} is none")
    blob = str(sibling.blob_id or "")
    if digest is None and not (described and size <= LARGEST_TEXT and _SHA1.fullmatch(blob)):
        return None  # nothing would prove its bytes
    return RemoteFile(path, size, digest, blob)


def _variants(files: list[RemoteFile]) -> tuple[Variant, ...]:
    """Grouped by quantisation and number of parts; a set with parts missing is left out."""
    groups: dict[tuple[str, int], list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.path.lower().endswith(".gguf") and not is_projector(file.path):
            groups.setdefault((variant_of(file.path), part_of(file.path)[1]), []).append(file)
    found: dict[str, Variant] = {}
    for (name, parts), members in groups.items():
        if parts == 1:
            for file in members:
                free = name if name not in found else file.path.rsplit("/", 1)[-1][: -len(".gguf")]
                found[free] = Variant(free, (file,))
        elif [part_of(file.path)[0] for file in members] == list(range(1, parts + 1)):
            found.setdefault(name, Variant(name, tuple(members)))
    for variant in _onnx_variants(files):
        found.setdefault(variant.name, variant)
    return tuple(sorted(found.values(), key=lambda variant: -variant.size))


def _onnx_variants(files: list[RemoteFile]) -> Iterator[Variant]:
    """Each graph with its weights, and the files that say how to use it: beside it, or above `onnx/`."""
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if not name.endswith(".onnx") or not is_layout(name):
            continue
        home = (
            folder.removesuffix("onnx").rstrip("/") if folder.split("/")[-1] == "onnx" else folder
        )
        above = f"{home}/" if home else ""
        beside = [
            other
            for other in files
            if belongs_to(other.path, file.path)
            or (
                other.path.startswith(above)
                and other.path.removeprefix(above) in (*DESCRIBED, *POOLING)
            )
        ]
        names = {other.path.removeprefix(above) for other in beside}
        if "tokenizer.json" in names and names & {"config.json", "genai_config.json"}:
            steps = tuple(step for step in file.path.split("/") if step != "onnx")
            yield Variant(layout_variant(steps), (file, *beside))


def _preference(variant: Variant) -> tuple[int, bool, int]:
    """What is taken when nobody chose: of forms without a rank the largest that is no burden."""
    return rank(variant.name), variant.size > BURDEN, -variant.size


def choose(found: Repository, wish: str | None, fits: Callable[[int], bool]) -> Variant:
    """The variant that is wished for: its name, the beginning of one, a file's name, `best` (the
    largest that fits) or nothing (a small one of which little is lost). Raises ModelNotFound.
    """
    if wish is None or wish.lower() == BEST:
        able = [variant for variant in found.variants if fits(variant.size)] or [found.variants[-1]]
        if wish is None:
            return min(able, key=_preference)
        return max(able, key=lambda variant: variant.size)
    low = wish.lower()
    exact = [
        variant
        for variant in found.variants
        if variant.name.lower() == low
        or any(
            low in (file.path.lower(), file.path.lower().rsplit("/", 1)[-1])
            for file in variant.files
        )
    ]
    near = [variant for variant in found.variants if variant.name.lower().startswith(low)]
    if chosen := exact or sorted(near, key=lambda variant: rank(variant.name)):
        return chosen[0]
    names = ", ".join(variant.name for variant in found.variants[:20])
    raise ModelNotFound(
        f"{found.id} has no variant {wish!r}; it has {names}",
        param="model",
        model=f"{found.id}:{wish}",
        pull_hint=f"choose one of: {names}",
    )
