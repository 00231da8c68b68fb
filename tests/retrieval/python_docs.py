"""Python's documentation as a test of finding things: which pages count, and what is asked.

`scripts/python_docs.sh` puts the pages where `PLACE` says; each question names what answers it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PLACE = Path("build/python-docs")  # seen from the root of the repository

_NO_CONTENT: Final = frozenset(
    {
        "_setuptools_disclaimer.html",
        "contents.html",
        "copyright.html",
        "download.html",
        "py-modindex.html",
        "search.html",
    }
)


def pages() -> list[Path]:
    """Every page with something to read, in a fixed order; none where the docs are not there."""
    return sorted(page for page in PLACE.rglob("*.html") if _content(page.relative_to(PLACE)))


def _content(page: Path) -> bool:
    folder = page.parts[0]
    if page == Path("index.html") or folder == "includes" or folder.startswith("_"):
        return False
    return page.name not in _NO_CONTENT and not page.name.startswith("genindex")


QUESTIONS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    # Best found by the exact word in them.
    ("asyncio timeout", ("library/asyncio-task.html",)),
    ("What do the lineno and colno of a JSONDecodeError mean?", ("library/json.html",)),
    ("BrokenProcessPool raised, why?", ("library/concurrent.futures.html",)),
    ("shutil.copytree dirs_exist_ok", ("library/shutil.html",)),
    (
        "UnboundLocalError: local variable 'total' referenced before assignment",
        ("faq/programming.html", "reference/executionmodel.html"),
    ),
    ("PyArg_ParseTuple z# format unit", ("c-api/arg.html",)),
    ("ExceptionGroup subgroup and split", ("library/exceptions.html",)),
    ("When is __init_subclass__ called and what does it get?", ("reference/datamodel.html",)),
    ("irrefutable case block", ("reference/compound_stmts.html",)),
    ("What is the difference between EAFP and LBYL?", ("glossary.html",)),
    ("PYTHONPYCACHEPREFIX", ("using/cmdline.html", "library/sys.html")),
    ("What do Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS expand to?", ("c-api/init.html",)),
    # Best found by what they mean: few of their words are on the page.
    (
        "Generate a code for a reset-my-login mail that an attacker cannot predict",
        ("library/secrets.html",),
    ),
    (
        "Why does a list I gave as a parameter's starting value still hold things from before?",
        ("faq/programming.html", "tutorial/controlflow.html"),
    ),
    (
        "Put each new item in its right spot so that a list never needs sorting again",
        ("library/bisect.html",),
    ),
    (
        "Close an unknown number of open files reliably, even when something fails halfway",
        ("library/contextlib.html",),
    ),
    (
        "Why do two words with the same accented letter not count as equal?",
        ("howto/unicode.html", "library/unicodedata.html"),
    ),
    (
        "Who has to free an object that a C function gave me?",
        ("c-api/intro.html", "extending/extending.html"),
    ),
    (
        "Stop storing my extension's data in global C variables so that it can be loaded twice",
        ("howto/isolating-extensions.html",),
    ),
    (
        "Was the language really called after a snake?",
        ("faq/general.html", "tutorial/appetite.html"),
    ),
    ("A cache whose entries go away once nobody else uses the objects", ("library/weakref.html",)),
    ("Where does all my memory go?", ("library/tracemalloc.html",)),
    (
        "In what order should jobs run when some need others to be finished first?",
        ("library/graphlib.html",),
    ),
    ("Measure how many seconds each of my functions takes up", ("library/profile.html",)),
    (
        "Know the current user of each web request without handing it to every function",
        ("library/contextvars.html", "howto/logging-cookbook.html"),
    ),
    (
        "Objects of my own C type keep each other alive for ever and are never cleaned up",
        ("c-api/gcsupport.html", "extending/newtypes_tutorial.html"),
    ),
    # A little of both.
    ("Why is 0.1 + 0.2 not exactly 0.3?", ("tutorial/floatingpoint.html", "faq/design.html")),
    ("Why must I write self everywhere in a class?", ("faq/design.html",)),
    ("How much faster is 3.11 than the release before it?", ("whatsnew/3.11.html",)),
    ("What does it mean when a socket's recv gives me zero bytes?", ("howto/sockets.html",)),
    ("Several processes writing logs into the same file", ("howto/logging-cookbook.html",)),
    ("Sort records by one field upwards and by another one downwards", ("howto/sorting.html",)),
    ("Which Python does the py launcher on Windows pick by default?", ("using/windows.html",)),
    (
        "Does finally still run when the try block returns?",
        ("tutorial/errors.html", "reference/compound_stmts.html"),
    ),
    (
        "Convert a meeting time from New York to Tokyo, daylight saving included",
        ("library/zoneinfo.html",),
    ),
    (
        "argparse option that takes no value, like --verbose",
        ("howto/argparse.html", "library/argparse.html"),
    ),
    (
        "How does looking up a function on an instance turn it into a bound method?",
        ("howto/descriptor.html", "reference/datamodel.html"),
    ),
    ("What happens when no finder on sys.meta_path knows the module?", ("reference/import.html",)),
    ("What replaced the old LL(1) parser?", ("whatsnew/3.9.html",)),
    (
        "Why does the regular expression <.*> swallow more than one tag?",
        ("howto/regex.html", "library/re.html"),
    ),
)
