"""May this JSON schema be asked for? Either every word of it is enforced, or it is refused."""

from __future__ import annotations

from typing import Any, Final

from tabagent.errors import InvalidRequest
from tabagent.worker.constraint.alternatives import Alternatives
from tabagent.worker.constraint.document import Document, Path
from tabagent.worker.constraint.document import pointer as written
from tabagent.worker.constraint.finite import circles, endless
from tabagent.worker.constraint.rewrite import Rewriter

LONGEST: Final = 200  # characters of a pointer in a sentence; `errors` has it whole


def check_schema(schema: Any, pointer: str) -> dict[str, Any]:
    """The same schema as the grammar compiler takes it.

    `pointer` is where the request has it. Raises InvalidRequest, whose `errors` point at every
    place that breaks a limit or asks for what would be ignored.
    """
    document = Document(schema)
    _refuse(document.problems, pointer)
    _refuse(circles(document), pointer)
    alternatives = Alternatives(document)
    _refuse(alternatives.problems + endless(document), pointer)
    rewriter = Rewriter(document, alternatives.tags)
    rewritten = rewriter.rewrite()
    _refuse(rewriter.problems, pointer)
    return rewritten


def _refuse(problems: list[tuple[Path, str]], pointer: str) -> None:
    if problems:
        errors = [{"pointer": pointer + written(path), "detail": said} for path, said in problems]
        place = errors[0]["pointer"] or "the schema"
        if len(place) > LONGEST:
            place = f"{place[:LONGEST]}..."
        raise InvalidRequest(
            f"{place}: {errors[0]['detail']}"
            + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
            param=pointer.lstrip("/").partition("/")[0] or None,
            errors=errors,
        )
