"""What people do to a question: politeness, contractions, capitals, typing errors."""

from __future__ import annotations

import re
from random import Random

from scripts.guide.intents import load_wrappers

WRAPPERS = load_wrappers()
BEFORE, AFTER, AFTER_PRODUCT = (WRAPPERS[name] for name in ("before", "after", "after_product"))
SHORTER = tuple(WRAPPERS.table("shorter").items())
SWAPS = WRAPPERS.table("swaps")
DROPPED = {"the", "a", "an", "do", "i", "to", "is", "of", "my", "can", "does", "it"}
NEAR = str.maketrans("qwertyuiopasdfghjklzxcvbnm", "wqrtyuiopasdfghjklkxcvbnmn")
POLITE = re.compile(
    r"^(?:(?:hey|hi|hello|please|pls|ok|so|well|um|and|but|now|tell me|can you|could you|would you"
    r"|explain|i have|question|quick question|do you know|i would like to know|i was wondering"
    r"|excuse me|sorry)\b[\s,:.!]*)+"
)
POLITE_END = re.compile(r"(?:\s+(?:please|pls|thanks|thx|thank you|again|now|exactly|then))+$")
WORDS = re.compile(r"[^\w\s]+")


def normalise(text: str) -> str:
    """A question without what is trivial: case, marks, articles, politeness, contractions."""
    text = text.lower().replace("tab agent", "tabagent").replace("\u2019", "'")
    for long, shorts in SHORTER:
        for short in shorts:
            text = re.sub(rf"\b{re.escape(short)}\b", long, text)
    text = POLITE.sub("", text) or text
    text = WORDS.sub(" ", text)
    words = [word for word in text.split() if word not in {"a", "an", "the"}]
    return POLITE_END.sub("", " ".join(words))


def _typo(word: str, rng: Random) -> str:
    at = rng.randrange(1, len(word))
    kind = rng.random()
    if kind < 0.3:
        return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
    if kind < 0.6:
        return word[:at] + word[at + 1 :]
    if kind < 0.8:
        return word[:at] + word[at] + word[at:]
    return word[:at] + word[at].translate(NEAR) + word[at + 1 :]


def _swap_words(words: list[str], rng: Random) -> list[str]:
    spots = [i for i, word in enumerate(words) if word in SWAPS]
    for spot in rng.sample(spots, min(len(spots), rng.randint(1, 2))):
        words[spot] = rng.choice(SWAPS[words[spot]])
    return words


def _mistype(words: list[str], rng: Random) -> list[str]:
    spots = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    for spot in rng.sample(spots, min(len(spots), rng.choice((1, 1, 2)))):
        words[spot] = _typo(words[spot], rng)
    return words


def _case(text: str, rng: Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        return text
    if kind < 0.55:
        return text + "?"
    if kind < 0.92:
        text = text[:1].upper() + text[1:]
        text = re.sub(r"\bi\b", "I", text).replace(" api", " API")
        mark = rng.random()
        return text + ("?" if mark < 0.7 else "." if mark < 0.8 else "")
    if kind < 0.95:
        return text.upper()
    return text + rng.choice(("??", "!", "...", " ?", "?!", "."))


def vary(text: str, rng: Random, *, plain: bool, product: bool) -> str:
    """`text` as somebody might type it. `product`: it is about TabAgent, so may say so."""
    words = text.split(" ")
    if not plain and rng.random() < 0.22:
        words = _swap_words(words, rng)
    if not plain and len(words) > 4 and rng.random() < 0.1:
        spots = [i for i, word in enumerate(words) if word in DROPPED]
        if spots:
            del words[rng.choice(spots)]
    if rng.random() < (0.1 if plain else 0.2):
        words = _mistype(words, rng)
    text = " ".join(words)
    for long, shorts in SHORTER:
        if long in text and rng.random() < 0.35:
            text = text.replace(long, rng.choice(shorts), 1)
    if not plain and rng.random() < 0.2:
        text = rng.choice(BEFORE) + text
    if not plain and rng.random() < 0.1:
        text += rng.choice(AFTER)
    elif product and not plain and "tabagent" not in text and rng.random() < 0.06:
        text += rng.choice(AFTER_PRODUCT)
    name = rng.random()
    if name < 0.5:
        text = text.replace("tabagent", "TabAgent" if name < 0.4 else "tab agent")
    return _case(text, rng)
