"""An HTML page: its content as Markdown, its title, and where it leads.

Pages that mark their main content are taken at their word, and whole: documentation does. On the
others trafilatura finds the article, unless it finds clearly too little of what is to be seen.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urldefrag, urljoin, urlsplit

import trafilatura
from lxml import etree

from tabagent.paper import Link
from tabagent.worker.reading.limits import TEXT, CannotRead, too_large
from tabagent.worker.reading.texts import declared_charset, decode, scrub
from tabagent.worker.reading.walk import Walk

MOST_LINKS: Final = 1000
LONGEST_URL: Final = 2048
LONGEST_TITLE: Final = 300
ENOUGH: Final = 200  # characters of a main element that is meant
OPEN_WEB: Final = 2_000_000  # characters of a page that trafilatura may take its time for
DEEPEST: Final = 200  # elements within each other, for the same reason
TOO_LITTLE: Final = 0.25  # of what is to be seen
# Without these a page reads nearly the same.
PLAIN: Final = re.compile(
    rb"</?(?:div|span|section|p|b|i|em|strong|font|center|a|ul|ol|li|dl|dd|blockquote|table|tbody"
    rb"|tr|td)\b[^<>]*>",
    re.I,
)

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # its findings are not ours

Element = Any  # lxml has no types
Resolve = Callable[[str], str]
BODY: Final = re.compile(r"<(?:body|frameset)\b", re.IGNORECASE)
HEAD: Final = re.compile(
    r"(?:\s|<!doctype[^>]*>|<!--.*?-->|<html\b[^>]*>|<head\b.*?</head>|</?head\b[^>]*>"
    r"|<(title|style|script|noscript|template)\b.*?</\1\s*>|<(?:meta|link|base)\b[^>]*>)*",
    re.IGNORECASE | re.DOTALL,
)


def read_page(data: bytes, url: str, charset: str) -> tuple[str, str, list[Link]]:
    """Title, Markdown and links. Raises CannotRead."""
    html = decode(data, charset or declared_charset(data))
    root = _parsed(_with_body(html))
    resolve = _resolver(url, root)
    text, content, frame = _content(root, resolve)
    title, links = _title(root), _links(root, content, url, resolve)
    if frame and len(text) >= ENOUGH and len(html) <= OPEN_WEB and frame.depth <= DEEPEST:
        text = _article(root, frame, resolve, text)
    if not text.strip():
        raise CannotRead("the page has no text of its own: it may only show it with scripts")
    if len(text) > TEXT:
        raise too_large("the text of the page")
    return title, scrub(text), links


def _with_body(html: str) -> str:
    """A page may leave out <body>; libxml2 then takes <main> and its kin for a part of the head."""
    if BODY.search(html):
        return html
    end = HEAD.match(html)
    at = end.end() if end else 0
    return f"{html[:at]}<body>{html[at:]}"


def _parsed(html: str) -> Element:
    data = html.encode("utf-8", "replace")
    root, failures = _tree(data)
    if etree.ErrorTypes.ERR_RESOURCE_LIMIT in failures:  # libxml2 stops at 2048 within each other
        root, failures = _tree(PLAIN.sub(b"<br>", data))
    if etree.ErrorTypes.ERR_NO_MEMORY in failures:
        raise MemoryError
    if etree.ErrorTypes.ERR_RESOURCE_LIMIT in failures:
        raise CannotRead("the page is nested too deeply")
    if root is None:
        raise CannotRead("the page is empty")
    return root


def _tree(data: bytes) -> tuple[Element | None, set[int]]:
    """The tree, and by which codes the parser gave up on a part of it."""
    parser = etree.HTMLParser(
        encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.ParserError, etree.XMLSyntaxError):  # nothing in it, or no memory
        root = None
    return root, {entry.type for entry in parser.error_log.filter_from_fatals()}


def _content(root: Element, resolve: Resolve) -> tuple[str, Element, Walk | None]:
    """The Markdown, the element that it is of, and the walk when that is the whole page."""
    best, where = "", root
    for element in _marked(root):
        text = Walk(resolve).markdown(element)
        if len(text) > len(best):
            best, where = text, element
    if len(best) >= ENOUGH:
        return best, where, None
    walk = Walk(resolve, whole=True)
    seen = walk.markdown(root)
    if not seen.strip():  # everything in what is usually a frame
        return Walk(resolve).markdown(root), root, None
    return seen, root, walk


def _marked(root: Element) -> Iterator[Element]:
    """The elements that say they are the main content; not those within another."""
    mains = root.xpath("//main | //*[@role='main']")
    yield from mains[:3]
    if not mains:
        articles = list(root.iter("article"))
        if len(articles) == 1:
            yield articles[0]


def _article(root: Element, walk: Walk, resolve: Resolve, seen: str) -> str:
    """What trafilatura makes of the page, or `seen`. Takes out of the tree what is not seen."""
    if root.find(".//dt") is not None:  # it loses what a definition defines
        return seen
    for element in walk.skipped:  # it would show what a page hides
        element.clear(keep_tail=True)
        element.tag = "span"
    for anchor in root.iter("a"):  # and link to scripts
        if target := resolve(anchor.attrib.pop("href", "")):
            anchor.set("href", target)
    try:
        found = trafilatura.extract(
            etree.tostring(root, encoding="unicode", method="html"),
            output_format="markdown",
            include_links=True,
            include_tables=True,
            include_comments=False,
            favor_recall=True,
        )
    except MemoryError:
        raise
    except Exception:  # it works by many rules, each with its own ways to fail
        return seen
    return found if found and len(found) >= len(seen) * TOO_LITTLE else seen


def _title(root: Element) -> str:
    for path in ("head/title", ".//meta[@property='og:title']", ".//h1", ".//title"):
        element = root.find(path)
        if element is not None:
            text = element.get("content") or "".join(element.itertext())
            if words := " ".join(scrub(text).split()).rstrip("¶#").strip():
                return words[:LONGEST_TITLE]
    return ""


def _resolver(url: str, root: Element) -> Resolve:
    base = root.find(".//base[@href]")
    start = _absolute(url, base.get("href")) if base is not None else ""
    start = start or url

    def resolve(href: str) -> str:
        return "" if href.startswith("#") else _absolute(start, href)

    return resolve


def _absolute(base: str, href: str) -> str:
    """An http(s) URL, or ""."""
    if not href or len(href) > LONGEST_URL:
        return ""
    try:
        parts = urlsplit(urljoin(base, href.strip()))
        url = parts.geturl()
    except ValueError:  # brackets in a host
        return ""
    good = parts.scheme in ("http", "https") and bool(parts.netloc) and len(url) <= LONGEST_URL
    return scrub(url) if good else ""


def _links(root: Element, content: Element, url: str, resolve: Resolve) -> list[Link]:
    """Those of the content first, then those around it; each place once."""
    found: dict[str, Link] = {}
    here = urldefrag(url).url
    for element in (content, root):
        for anchor in element.iter("a"):
            target = urldefrag(resolve(anchor.get("href") or "")).url
            if not target or target == here or target in found:
                continue
            text = " ".join(scrub("".join(anchor.itertext())).split())
            found[target] = Link(target, text[:LONGEST_TITLE])
            if len(found) == MOST_LINKS:
                return list(found.values())
    return list(found.values())
