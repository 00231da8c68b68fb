"""Documents made by hand: PDFs object by object, Word documents part by part."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pypdf import PdfReader, PdfWriter

import tabagent
from tabagent.paper import Chunk, Splitting

TOKENIZER = Path(tabagent.__file__).parent / "builtin" / "embed" / "tokenizer.json"
SPLITTING = Splitting(str(TOKENIZER))
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def uncovered(text: str, chunks: list[Chunk]) -> str:
    """What of the text that is no whitespace stands in no chunk."""
    at, left = 0, ""
    for chunk in chunks:
        left += text[at : chunk.start].strip()
        at = max(at, chunk.end)
    return left + text[at:].strip()


# ---- PDF ----------------------------------------------------------------------------------------
def pdf_of(objects: Sequence[bytes], trailer: bytes = b"/Root 1 0 R") -> bytes:
    """A file of these objects, numbered from 1, with its table of offsets."""
    body = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return b"%sxref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d %s>>\nstartxref\n%d\n%%%%EOF" % (
        body, len(objects) + 1, table, len(objects) + 1, trailer, len(body),
    )  # fmt: skip


def stream(content: bytes, more: bytes = b"") -> bytes:
    return b"<</Length %d %s>>\nstream\n%s\nendstream" % (len(content), more, content)


def pdf(pages: Sequence[str], title: str = "") -> bytes:
    """Pages of one line each, none where it is empty."""
    first = 4
    kids = b" ".join(b"%d 0 R" % (first + 2 * i) for i in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, line in enumerate(pages):
        content = first + 2 * number + 1
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents %d 0 R"
            b"/Resources<</Font<</F 3 0 R>>>>>>" % content
        )
        shown = b"BT /F 12 Tf 72 700 Td (%s) Tj ET" % line.encode("latin-1") if line else b""
        objects.append(stream(shown))
    if not title:
        return pdf_of(objects)
    objects.append(b"<</Title (%s)>>" % title.encode("latin-1"))
    return pdf_of(objects, b"/Root 1 0 R /Info %d 0 R" % len(objects))


def encrypted(document: bytes, password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(BytesIO(document)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def pdf_bomb(size: int) -> bytes:
    """A page whose content inflates to `size` bytes."""
    packer = zlib.compressobj(9)
    piece = b"0 0 m\n" * 200_000
    head = packer.compress(b"q\n") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a piece stands for itself, and may be repeated.
    block = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = head + block * (size // len(piece))
    return pdf_of(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<<>>>>",
            stream(packed, b"/Filter/FlateDecode"),
        ]
    )


# ---- Word ---------------------------------------------------------------------------------------
def archive(parts: dict[str, str | bytes]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return out.getvalue()


def p(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def docx(body: str, title: str = "", links: dict[str, str] | None = None) -> bytes:
    """A document with the styles Heading1-3 (by German ids), a bulleted list 1, a counted list 2."""
    styles = "".join(
        f'<w:style w:styleId="berschrift{n}"><w:name w:val="heading {n}"/></w:style>'
        for n in (1, 2, 3)
    )
    numbering = "".join(
        f'<w:abstractNum w:abstractNumId="{n}"><w:lvl w:ilvl="0"><w:numFmt w:val="{form}"/></w:lvl>'
        f'<w:lvl w:ilvl="1"><w:numFmt w:val="{form}"/></w:lvl></w:abstractNum>'
        f'<w:num w:numId="{n}"><w:abstractNumId w:val="{n}"/></w:num>'
        for n, form in ((1, "bullet"), (2, "decimal"))
    )
    relations = "".join(
        f'<Relationship Id="{id_}" Type="hyperlink" Target="{url}" TargetMode="External"/>'
        for id_, url in (links or {}).items()
    )
    code = '<w:style w:styleId="Code"><w:name w:val="Source Code"/></w:style>'
    return archive(
        {
            "word/document.xml": f'<w:document xmlns:w="{W}" xmlns:r="{R}"><w:body>{body}</w:body></w:document>',
            "word/styles.xml": f'<w:styles xmlns:w="{W}">{styles}{code}</w:styles>',
            "word/numbering.xml": f'<w:numbering xmlns:w="{W}">{numbering}</w:numbering>',
            "word/_rels/document.xml.rels": f"<Relationships>{relations}</Relationships>",
            "docProps/core.xml": f'<c xmlns:dc="urn:dc"><dc:title>{title}</dc:title></c>',
        }
    )
