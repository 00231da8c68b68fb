"""GBNF rules as Lark rules, once nothing in them can hang or never end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tabagent.errors import GrammarInvalid
from tabagent.worker.constraint.gbnf import (
    Choice,
    Item,
    Reference,
    Repeat,
    Rule,
    Terminal,
    parse,
    refuse,
)

ROOT = "root"


def convert(text: str, name: str) -> str:
    """Lark rules that define `name`; all others begin with it. Raises GrammarInvalid."""
    rules = parse(text)
    if ROOT not in rules:
        raise GrammarInvalid(f"line 1: the grammar has no rule {ROOT}")
    for rule in rules.values():
        for reference in _references(rule.body):
            if reference.name not in rules:
                refuse(reference.line, f"{reference.name} is not defined")
    _refuse_left_recursion(rules)
    _refuse_endless(rules)
    return _Writer(rules, name).text


def _references(item: Item) -> Iterator[Reference]:
    match item:
        case Reference():
            yield item
        case Choice(options):
            for option in options:
                for part in option:
                    yield from _references(part)
        case Repeat(inner):
            yield from _references(inner)


def _settle(rules: dict[str, Rule], holds: Callable[[Item, set[str]], bool]) -> set[str]:
    """The rules for which `holds`, which may ask which do so far."""
    known: set[str] = set()
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, rule in rules.items():
        for reference in _references(rule.body):
            users[reference.name].add(name)
    todo = dict.fromkeys(reversed(rules))  # a queue that holds nothing twice
    while todo:
        name = next(iter(todo))
        del todo[name]
        if name not in known and holds(rules[name].body, known):
            known.add(name)
            todo |= dict.fromkeys(users[name])
    return known


def _empties(item: Item, known: set[str]) -> bool:
    """Whether it can be nothing at all."""
    match item:
        case Terminal():
            return False
        case Reference(name):
            return name in known
        case Choice(options):
            return any(all(_empties(part, known) for part in option) for option in options)
        case Repeat(inner, least):
            return least == 0 or _empties(inner, known)


def _ends(item: Item, known: set[str]) -> bool:
    """Whether some text satisfies it."""
    match item:
        case Terminal():
            return True
        case Reference(name):
            return name in known
        case Choice(options):
            return any(all(_ends(part, known) for part in option) for option in options)
        case Repeat(inner, least):
            return least == 0 or _ends(inner, known)


def _refuse_endless(rules: dict[str, Rule]) -> None:
    known = _settle(rules, _ends)
    for name, rule in rules.items():
        if name not in known:
            refuse(rule.line, f"{name} demands itself without end")


def _refuse_left_recursion(rules: dict[str, Rule]) -> None:
    empty = _settle(rules, _empties)

    def first(item: Item) -> Iterator[str]:
        """The rules that may stand at the very beginning of `item`."""
        match item:
            case Reference(name):
                yield name
            case Repeat(inner):
                yield from first(inner)
            case Choice(options):
                for option in options:
                    for part in option:
                        yield from first(part)
                        if not _empties(part, empty):
                            break

    following = {name: list(dict.fromkeys(first(rule.body))) for name, rule in rules.items()}
    done: set[str] = set()
    for start in rules:
        trail: list[str] = []
        todo: list[tuple[str, bool]] = [(start, False)]
        while todo:
            name, leaving = todo.pop()
            if leaving:
                done.add(trail.pop())
            elif name in trail:
                refuse(rules[name].line, f"{name} begins with itself (left recursion)")
            elif name not in done:
                trail.append(name)
                todo.append((name, True))
                todo += [(other, False) for other in following[name]]


class _Writer:
    """Every group becomes a rule of its own: the compiler's parser nests less deeply than GBNF."""

    def __init__(self, rules: dict[str, Rule], name: str) -> None:
        self._rules, self._name = rules, name
        self._written: list[str] = []
        self._numbers: dict[str, str] = {}  # a rule of GBNF to its name in Lark
        self._todo: list[str] = []
        self._count = 0
        self._write(name, self._option([Reference(ROOT, 1)]))
        while self._todo:
            self._rule(self._todo.pop())
        self.text = "\n".join(self._written) + "\n"

    def _rule(self, source: str) -> None:
        """`a ::= "x" a | "y"` becomes `("x")* "y"`: parsing it would take ever longer."""
        own = self._numbers[source]
        options = self._rules[source].body.options
        ending = [o for o in options if o and isinstance(o[-1], Reference) and o[-1].name == source]
        if not ending:
            self._write(own, self._options(options))
            return
        again, last = self._fresh(), self._fresh()
        self._write(own, f"{again}* {last}")
        self._write(again, self._options(tuple(option[:-1] for option in ending)))
        self._write(last, self._options(tuple(o for o in options if o not in ending)))

    def _options(self, options: tuple[tuple[Item, ...], ...]) -> str:
        return " | ".join(self._option(option) for option in options)

    def _option(self, items: tuple[Item, ...] | list[Item]) -> str:
        return " ".join(self._item(item) for item in items) or '""'

    def _item(self, item: Item) -> str:
        match item:
            case Terminal(lark):
                return lark
            case Reference(name):
                if name not in self._numbers:
                    self._numbers[name] = self._fresh()
                    self._todo.append(name)
                return self._numbers[name]
            case Choice(options):
                return self._group(options)
            case Repeat(_, _, 0):
                return '""'
            case Repeat(inner, least, most):
                if isinstance(inner, Repeat):
                    inner = Choice(((inner,),))
                return f"{self._item(inner)}{_suffix(least, most)}"

    def _group(self, options: tuple[tuple[Item, ...], ...]) -> str:
        name = self._fresh()
        self._write(name, self._options(options))
        return name

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._name}_{self._count}"

    def _write(self, name: str, body: str) -> None:
        self._written.append(f"{name}: {body}")


def _suffix(least: int, most: int | None) -> str:
    if most is None and least < 2:
        return "+" if least else "*"
    return f"{{{least},{'' if most is None else most}}}"
