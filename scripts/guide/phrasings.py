"""Questions for an intent: its own phrasings, wrapped in the ways people ask."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from random import Random

from scripts.guide.grammar import expand, size
from scripts.guide.intents import Intent, load_wrappers

WRAPPERS = load_wrappers()
DO, TOPIC = WRAPPERS.weighted("do"), WRAPPERS.weighted("topic")
ERROR, OTHER_SLUGS, CODE = WRAPPERS["about_error"], WRAPPERS["other_slugs"], WRAPPERS["code"]
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def slug_form(intent: Intent, rng: Random) -> str:
    """The slug as people copy it: with spaces, quotes, capitals, its status."""
    slug = intent.slug
    forms = (
        slug,
        slug,
        slug,
        slug,
        slug.replace("-", " "),
        slug.replace("-", " "),
        slug.replace("-", "_"),
        slug.upper(),
        f"`{slug}`",
        f'"{slug}"',
        f"'{slug}'",
        slug.replace("-", " ").title(),
        slug.replace("-", ""),
        f"{intent.status} {slug}",
        f"{slug} ({intent.status})",
        f"problems/{slug}",
    )
    return rng.choice(forms)


def _mash(rng: Random) -> str:
    words = []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            row = rng.choice(KEYS)
            words.append("".join(rng.choice(row) for _ in range(rng.randint(3, 9))))
        else:
            start = rng.choice(("b", "fl", "gr", "kl", "m", "sn", "tr", "w", "z", "pl", "qu", "x"))
            vowel = rng.choice("aeiouy")
            end = rng.choice(("b", "rk", "mp", "x", "bble", "ng", "tz", "ff", "zz", "nk"))
            words.append((start + vowel + end) * rng.choice((1, 1, 2)))
    return " ".join(words)


def _noise(slots: Mapping[str, list[str]], rng: Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return _mash(rng)
    if kind < 0.65:
        return rng.choice("?!.#*") * rng.randint(1, 6)
    if kind < 0.8:
        return " ".join(rng.choice(slots["thing"]) for _ in range(rng.randint(2, 5)))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 12)))


def _pasted(intent: Intent, slots: Mapping[str, list[str]], rng: Random) -> str:
    """A task about a longer text or some code that is pasted below it."""
    verb = rng.choice(("summarise", "translate", "explain", "fix", "shorten", "rewrite", "answer"))
    if rng.random() < 0.3:
        return f"{verb} this code: {rng.choice(CODE)}"
    lines = [expand(rng.choice(intent.ask), slots, rng) for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.4:
        question = expand(rng.choice(intent.ask), slots, rng)
        return f"Use these sources.\n[1] {'. '.join(lines)}.\n\nQuestion: {question}"
    return f"{verb} this: {'. '.join(lines)}"


def _pick(patterns: tuple[str, ...], rng: Random) -> str:
    """A pattern, the more likely the more strings it stands for, but not in proportion."""
    return rng.choices(patterns, [sqrt(size(pattern)) for pattern in patterns])[0]


def phrase(intent: Intent, slots: Mapping[str, list[str]], rng: Random) -> str:
    """One way to ask for `intent`, in lower case and without a question mark."""
    if intent.slug and (not intent.ask or rng.random() < 0.75):
        return rng.choice(ERROR).format(slug_form(intent, rng))
    if intent.id == "errors-what" and rng.random() < 0.25:
        return rng.choice(ERROR).format(rng.choice(OTHER_SLUGS))
    if intent.id == "rest-unclear" and rng.random() < 0.6:
        return _noise(slots, rng)
    if intent.id == "rest-task" and rng.random() < 0.12:
        return _pasted(intent, slots, rng)
    fields = [(4.0, intent.do), (2.0, intent.topic), (4.0, intent.ask)]
    fields = [(weight, patterns) for weight, patterns in fields if patterns]
    patterns = rng.choices(fields, [weight for weight, _ in fields])[0][1]
    text = expand(_pick(patterns, rng), slots, rng)
    if patterns is intent.ask:
        return text
    wrappers = DO if patterns is intent.do else TOPIC
    wrapper = rng.choices(wrappers, [weight for _, weight in wrappers])[0][0]
    return wrapper.format(text)
