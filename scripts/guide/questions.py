"""Training questions, with everything that resembles a held-back phrasing left out."""

from __future__ import annotations

from collections import Counter
from random import Random

from scripts.guide.augment import normalise, vary
from scripts.guide.intents import Intent, load_held_back, load_intents, load_slots
from scripts.guide.phrasings import phrase

NEAR_EDITS = 2  # a phrasing this close to a held-back one counts as the same one


def _edits(a: str, b: str, limit: int) -> int:
    """Levenshtein distance, or limit + 1 when it is larger."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
        if min(row) > limit:
            return limit + 1
        previous = row
    return previous[-1]


class HeldBack:
    """The phrasings training must not see, and how close is too close."""

    def __init__(self) -> None:
        pairs = load_held_back("test") + load_held_back("dev")
        self.texts = {normalise(text) for _, text in pairs}
        self._bags = [(text, Counter(text)) for text in sorted(self.texts)]
        self._known: dict[str, bool] = {}

    def resembles(self, text: str) -> bool:
        """Whether `text` is a held-back phrasing, or one up to small edits."""
        key = normalise(text)
        if key not in self._known:
            self._known[key] = key in self.texts or self._near(key)
        return self._known[key]

    def _near(self, key: str) -> bool:
        bag = Counter(key)
        for text, other in self._bags:
            if abs(len(text) - len(key)) > NEAR_EDITS or len(text) < 8:
                continue
            # One edit changes the bag of characters by at most two.
            if sum(((bag - other) + (other - bag)).values()) > 2 * NEAR_EDITS:
                continue
            if _edits(key, text, NEAR_EDITS) <= NEAR_EDITS:
                return True
        return False


class Questions:
    """Draws (intent, question, answer), and remembers what it drew."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.intents = load_intents()
        self.slots = load_slots()
        self.held_back = HeldBack()
        self.distinct: set[str] = set()
        self.drawn = 0
        self._list = list(self.intents.values())
        self._weights = [intent.weight for intent in self._list]

    def draw(self) -> tuple[Intent, str, str]:
        """One question for a random intent and the answer to it."""
        rng = self.rng
        intent = rng.choices(self._list, self._weights)[0]
        while True:
            base = phrase(intent, self.slots, rng)
            if self.held_back.resembles(base):
                continue
            product = intent.group != "rest" and intent.id != "unknown"
            text = vary(base, rng, plain=intent.plain, product=product)
            key = normalise(text)
            if key in self.held_back.texts:
                continue
            self.drawn += 1
            self.distinct.add(key)
            return intent, text, rng.choice(intent.answers)

    def check(self) -> None:
        """Assert that no drawn question was a held-back one."""
        seen = self.distinct & self.held_back.texts
        assert not seen, f"held-back phrasings in the training set: {sorted(seen)}"
