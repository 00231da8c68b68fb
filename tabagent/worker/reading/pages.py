"""An HTML page: its content as Markdown, its title, and where it leads.

Pages that mark their main content are taken at their word, and whole: documentation does. On the
others trafilatura finds the article, unless it finds clearly too little of what is to be seen.
"""

from __future__ import annotations

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

Element = Any  # lxml has no types
Resolve = Callable[[str], str]


def read_page(data: bytes, url: str, charset: str) -> tuple[str, str, list[Link]]:
    """Title, Markdown and links. Raises CannotRead."""
    html = decode(data, charset or declared_charset(data))
    parser = etree.HTMLParser(
        encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(html.encode("utf-8", "replace"), parser)
    except etree.ParserError:  # an empty page
        root = None
    except etree.XMLSyntaxError as error:
        raise CannotRead("this is not an HTML page") from error
    if root is None:
        raise CannotRead("the page is empty")
    resolve = _resolver(url, root)
    text, content = _content(root, html, url, resolve)
    if not text.strip():
        raise CannotRead("the page has no text of its own: it may only show it with scripts")
    if len(text) > TEXT:
        raise too_large("the text of the page")
    return _title(root), scrub(text), _links(root, content, url, resolve)


def _content(root: Element, html: str, url: str, resolve: Resolve) -> tuple[str, Element]:
    """The Markdown, and the element that it is of."""
    best, where = "", root
    for element in _marked(root):
        text = Walk(resolve, whole=False).markdown(element)
        if len(text) > len(best):
            best, where = text, element
    if len(best) >= ENOUGH:
        return best, where
    walk = Walk(resolve, whole=True)
    seen = walk.markdown(root)
    if not seen.strip():  # everything in what is usually a frame
        seen = Walk(resolve, whole=False).markdown(root)
    if len(seen) < ENOUGH or len(html) > OPEN_WEB or walk.depth > DEEPEST:
        return seen, root
    if root.find(".//dt") is not None:  # trafilatura loses what a definition defines
        return seen, root
    found = _article(html, url)
    return (found, root) if len(found) >= len(seen) * TOO_LITTLE else (seen, root)


def _marked(root: Element) -> Iterator[Element]:
    """The elements that say they are the main content; not those within another."""
    mains = root.xpath("//main | //*[@role='main']")
    yield from mains[:3]
    if not mains:
        articles = list(root.iter("article"))
        if len(articles) == 1:
            yield articles[0]


def _article(html: str, url: str) -> str:
    try:
        found = trafilatura.extract(
            html,
            url=url or None,
            output_format="markdown",
            include_links=True,
            include_tables=True,
            include_comments=False,
            favor_recall=True,
        )
    except MemoryError:
        raise
    except Exception:  # it works by many rules, each with its own ways to fail; there is another
        return ""
    return found or ""


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
        url = urljoin(base, href.strip())
        parts = urlsplit(url)
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
