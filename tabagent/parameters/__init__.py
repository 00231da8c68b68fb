"""Request fields that several services share, and how a field is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from tabagent.errors import InvalidRequest
from tabagent.operation import UNSUPPORTED

Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]

ModelName = Annotated[
    str | None, Field(max_length=200, description="Model id; the selected model when left out.")
]


def invalid(pointer: str, detail: str) -> InvalidRequest:
    """The error of a value that pydantic alone cannot judge; validators may raise it too."""
    return InvalidRequest(
        f"{pointer}: {detail}",
        param=pointer.split("/")[1],
        errors=[{"pointer": pointer, "detail": detail}],
    )


def unsupported(why: str) -> PydanticCustomError:
    """The error of a value that is understood and cannot be honoured; `why` says what to do."""
    return PydanticCustomError(UNSUPPORTED, "{why}", {"why": why})


def only(why: str, *harmless: Any) -> BeforeValidator:
    """Refuse everything but the values that ask for nothing."""

    def check(value: Any) -> Any:
        if value not in harmless:
            raise unsupported(why)
        return value

    return BeforeValidator(check)


REFUSED = WithJsonSchema({"description": "Refused unless absent or at its default."})

NotYet = Annotated[
    Any,
    only("this server cannot honour it", None, [], {}, False, "none", {"type": "text"}, ["text"]),
    REFUSED,
]
"""A known parameter that would change the answer and cannot be honoured."""

Meaningless = Annotated[
    Any, WithJsonSchema({"description": "Accepted; has no meaning on a local server."})
]

Verbosity = Annotated[
    Any, only("no local model is trained to obey it: ask for it in words", None, "medium"), REFUSED
]
