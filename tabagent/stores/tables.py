"""The tables as SQLAlchemy knows them; how they are made is said in migrations.py.

Imported late: SQLAlchemy costs a start more than everything else.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine


class Json(TypeDecorator[Any]):
    """A value as JSON text, so that both databases keep the same."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: object) -> str:
        # PostgreSQL has no NUL in text; JSON says it in six characters, and so all is kept.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: object) -> Any:
        return None if value is None else json.loads(value)


class MaybeJson(Json):
    """The same, where None is no value at all."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: object) -> str | None:  # type: ignore[override]  # it may be NULL
        return None if value is None else super().process_bind_param(value, dialect)


class Flag(TypeDecorator[bool]):
    """True or false as 1 or 0."""

    impl = SmallInteger
    cache_ok = True

    def process_bind_param(self, value: bool | None, dialect: object) -> int:
        return int(bool(value))

    def process_result_value(self, value: int | None, dialect: object) -> bool:
        return bool(value)


METADATA: Final = MetaData()


def _table(name: str, /, **columns: TypeEngine[Any] | type[TypeEngine[Any]]) -> Table:
    return Table(name, METADATA, *(Column(key, kind) for key, kind in columns.items()))


def _numbered(name: str, /, **columns: TypeEngine[Any] | type[TypeEngine[Any]]) -> Table:
    number = Column("number", BigInteger, primary_key=True, autoincrement=True)
    return Table(name, METADATA, number, *(Column(key, kind) for key, kind in columns.items()))


sessions: Final = _table(
    "sessions",
    id=Text, kind=Text, title=Text, title_by=Text, model=Text, system=Text, pinned=Flag,
    archived=Flag, metadata=Json, branch_id=Text, message_count=Integer, summary=Text,
    summary_until=BigInteger, created_at=Double, updated_at=Double,
)  # fmt: skip
session_tags: Final = _table("session_tags", session_id=Text, tag=Text)
branches: Final = _table(
    "branches", id=Text, session_id=Text, parent_id=Text, fork_depth=Integer, created_at=Double
)
messages: Final = _numbered(
    "messages",
    id=Text, session_id=Text, branch_id=Text, depth=Integer, role=Text, content=Json, extra=Json,
    status=Text, writer=Text, model=Text, finish_reason=Text, usage=MaybeJson, metadata=Json,
    pinned=Flag, created_at=Double,
)  # fmt: skip
responses: Final = _table(
    "responses",
    id=Text, caller=Text, session_id=Text, message_id=Text, size_bytes=BigInteger, used_at=Double,
)  # fmt: skip
collections: Final = _table(
    "collections",
    name=Text, description=Text, model=Text, next_model=Text, chunk_tokens=Integer,
    chunk_overlap=Integer, created_at=Double,
)  # fmt: skip
folders: Final = _table(
    "folders",
    id=Text, collection=Text, path=Text, patterns=Json, watch=Flag, every_s=Double,
    scanned_at=Double, created_at=Double,
)  # fmt: skip
documents: Final = _table(
    "documents",
    id=Text, collection=Text, source=Text, folder_id=Text, title=Text, kind=Text, hash=Text,
    stat=Text, version=Integer, size_bytes=BigInteger, text=Text, links=Json, pages=Json,
    tags=Json, metadata=Json, chunk_count=Integer, created_at=Double, updated_at=Double,
)  # fmt: skip
chunks: Final = _numbered(
    "chunks",
    document_id=Text, collection=Text, ordinal=Integer, begins=Integer, ends=Integer,
    tokens=Integer, headings=Json,
    text=Text,
)  # fmt: skip
vectors: Final = _table("vectors", chunk=BigInteger, model=Text, vector=LargeBinary)
jobs: Final = _table(
    "jobs",
    id=Text, kind=Text, collection=Text, subject=Text, state=Text, writer=Text, total=Integer, counts=Json,
    failures=Json, created_at=Double, ended_at=Double,
)  # fmt: skip
incoming: Final = _numbered(
    "incoming",
    job_id=Text, collection=Text, source=Text, folder_id=Text, path=Text, stat=Text, kind=Text,
    title=Text, tags=Json, metadata=Json, data=LargeBinary,
)  # fmt: skip
message_vectors: Final = _table(
    "message_vectors", message=BigInteger, model=Text, vector=LargeBinary
)
entities: Final = _table("entities", about=Text, item=Text, label=Text, name=Text, times=Integer)
unread_messages: Final = _table("unread_messages", message=BigInteger)
unread_documents: Final = _table("unread_documents", document=Text)
signals: Final = _table(
    "signals",
    id=Text, caller=Text, peer=Text, answerer=Text, state=Text, offer=Text, answer=Text,
    seq=Integer, created_at=Double, expires_at=Double,
)  # fmt: skip
signal_candidates: Final = _numbered(
    "signal_candidates", signal_id=Text, seq=Integer, side=Text, candidate=Json
)
