"""English sentences to learn from: WordNet's definitions and examples, and questions on its words.

WordNet 3.0 (Princeton University, a licence that allows any use with its notice) comes as Debian's
package `wordnet-base`. None of its text is kept in what is made here: only numbers learnt from it.
"""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = "wordnet-base"
FILES: Final = ("data.noun", "data.verb", "data.adj", "data.adv")
EXAMPLE: Final = re.compile(r'"([^"]+)"')
ABOUT_THINGS: Final = (
    "What is {}?", "Tell me about {}.", "Where do I find {}?", "How does {} work?",
    "Why is {} important?", "Which {} is best?", "Do I need {}?", "{} for beginners",
)  # fmt: skip
ABOUT_DEEDS: Final = (
    "How do I {}?", "When should I {}?", "What is the best way to {}?", "How can I learn to {}?",
    "Why do people {}?",
)  # fmt: skip


def fetch() -> Path:
    """WordNet's files, from the system or from its package, unpacked somewhere temporary."""
    installed = Path("/usr/share/wordnet")
    if (installed / FILES[0]).is_file():
        return installed
    place = Path(tempfile.mkdtemp(prefix="wordnet-"))
    subprocess.run(["apt-get", "download", PACKAGE], cwd=place, check=True)  # noqa: S607  # Debian's own, where PATH has it
    (archive,) = place.glob("*.deb")
    subprocess.run(["dpkg", "-x", str(archive), str(place)], check=True)  # noqa: S607  # the same
    return place / "usr/share/wordnet"


def sentences(place: Path, seed: int = 0) -> list[str]:
    """All of them, each once, in an order drawn from `seed`."""
    draw = random.Random(seed)
    found = dict.fromkeys(text for name in FILES for text in _of_file(place / name, draw))
    texts = list(found)
    draw.shuffle(texts)
    return texts


def _of_file(file: Path, draw: random.Random) -> Iterator[str]:
    verbs = file.name.endswith("verb")
    for line in file.read_text().splitlines():
        if line.startswith("  "):
            continue  # the licence
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        words = [
            re.sub(r"\(\w+\)$", "", fields[4 + 2 * n]).replace("_", " ")
            for n in range(int(fields[3], 16))
        ]
        definition = gloss.partition('; "')[0].strip().rstrip(";")
        yield f"{words[0]}: {definition}"
        yield from (example.strip() for example in EXAMPLE.findall(gloss))
        forms = ABOUT_DEEDS if verbs else ABOUT_THINGS
        if draw.random() < 0.35 and not file.name.endswith(("adv", "adj")):
            yield draw.choice(forms).format(draw.choice(words))
        if len(words) > 1:
            yield ", ".join(words)
