"""What the gateway and the child that reads documents say to each other: msgpack, one per frame.

The gateway sends a Read and its bytes in frames of their own; the child answers with one Paper or
one Unreadable. Offsets count characters (code points) of the paper's text.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Kind = Literal["text", "markdown", "html", "pdf", "docx"]
PART: Final = 16 * 2**20  # bytes of a document in one frame


class Splitting(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a text is cut into chunks: by its structure, within a budget of tokens."""

    tokenizer: str  # path of a tokenizer.json
    tokens: int = 256  # most of a chunk
    overlap: int = 32  # of the tokens of one chunk with those of the next


class Read(msgspec.Struct, omit_defaults=True):
    """A document. `frames` frames with its bytes follow."""

    kind: Kind
    frames: int
    splitting: Splitting
    url: str = ""  # where it is from: links lead on from there
    charset: str = ""  # of a text or page, where it is known


class Chunk(msgspec.Struct, array_like=True):
    """A part of the text, with the headings that it stands under, the outermost first."""

    start: int
    end: int
    tokens: int
    headings: list[str] = []


class Link(msgspec.Struct, array_like=True):
    """Where the document leads."""

    url: str
    text: str


class Paper(msgspec.Struct, tag=True, omit_defaults=True):
    """A document as text: Markdown, where it had a structure."""

    title: str
    text: str
    chunks: list[Chunk]
    links: list[Link] = []
    pages: list[int] = []  # of a PDF: the offset at which each page begins


class Unreadable(msgspec.Struct, tag=True, omit_defaults=True):
    """`slug` and `members` make the error on the other side."""

    slug: str
    detail: str
    members: dict[str, Any] = {}


encode: Final = msgspec.msgpack.Encoder().encode
decode_read: Final = msgspec.msgpack.Decoder(Read).decode
decode_answer: Final = msgspec.msgpack.Decoder(Paper | Unreadable).decode
