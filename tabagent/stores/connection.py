"""What stores do with a connection, whichever database it leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sqlalchemy import CursorResult, Executable


class Connection(Protocol):
    """The part of SQLAlchemy's AsyncConnection that is used here."""

    async def execute(
        self, statement: Executable, parameters: Any = None, /
    ) -> CursorResult[*tuple[Any, ...]]: ...

    async def scalar(self, statement: Executable, parameters: Any = None, /) -> Any: ...
