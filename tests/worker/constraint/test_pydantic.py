"""What Pydantic and OpenAI's strict mode ask for passes, and what is drawn is what they take."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import pathlib
import random
import uuid
from typing import Annotated, Any, Literal

import pydantic
import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field, TypeAdapter

from tabagent.errors import InvalidRequest
from tabagent.worker.constraint.compiler import Compiler
from tabagent.worker.constraint.schema import check_schema
from tabagent.worker.constraint.vocabulary import Vocabulary
from tests.worker.constraint.real import start, walk


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: Annotated[float, Field(gt=0, lt=1)]


class Fish(BaseModel):
    kind: Literal["fish", "eel"]
    depth: int | None


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Add(BaseModel):
    op: Literal["add"] = "add"
    left: Expression
    right: Expression


class Number(BaseModel):
    op: Literal["number"] = "number"
    value: float


Expression = Annotated[Add | Number, Field(discriminator="op")]
Add.model_rebuild()


class Address(BaseModel):
    """Where someone lives."""

    model_config = pydantic.ConfigDict(extra="forbid")
    street: str = Field(description="with the number", max_length=40)
    city: str
    zip: Annotated[str, Field(pattern=r"^\d{5}(-\d{4})?$")]


class Person(BaseModel):
    name: str
    age: Annotated[int, Field(ge=0, le=150)]
    nickname: str | None = None
    addresses: Annotated[list[Address], Field(min_length=1, max_length=2)]
    friends: list[Person] = []


class Strict(BaseModel):
    title: str
    colour: Colour
    tags: list[str]
    person: Address | None
    when: datetime.datetime
    pet: Cat | Dog


KEPT: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "none": None,
    "optional": str | None, "union": int | str | list[bool] | None,
    "literal": Literal["a", 1, True, None], "enum": Colour, "int enum": Level,
    "list": list[int], "bounded list": Annotated[list[int], Field(min_length=1, max_length=3)],
    "tuple": tuple[int, str, bool], "endless tuple": tuple[int, ...],
    "named tuple": list[tuple[Literal["x", "y"], float]],
    "dict": dict[str, int], "dict of models": dict[str, Cat],
    "dict by enum": dict[Colour, int], "dict by literal": dict[Literal["x", "y"], int],
    "dict by pattern": dict[Annotated[str, Field(pattern="^a+$")], int],
    "dict by length": dict[Annotated[str, Field(min_length=1, max_length=3)], int],
    "bounded dict": Annotated[dict[str, int], Field(min_length=1, max_length=3)],
    "ge le": Annotated[int, Field(ge=-3, le=3)], "gt lt": Annotated[float, Field(gt=0, lt=1)],
    "multiple": Annotated[int, Field(multiple_of=5)],
    "quarter": Annotated[float, Field(multiple_of=0.25, ge=0, le=9)],
    "positive": pydantic.PositiveInt, "pattern": Annotated[str, Field(pattern=r"^[a-z]+\d$")],
    "lengths": Annotated[str, Field(min_length=2, max_length=5)],
    "datetime": datetime.datetime, "date": datetime.date, "time": datetime.time,
    "aware": pydantic.AwareDatetime, "timedelta": datetime.timedelta,
    "uuid": uuid.UUID, "uuid4": pydantic.UUID4, "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address, "path": pathlib.PurePosixPath, "url": pydantic.AnyUrl,
    "bytes": bytes, "secret": pydantic.SecretStr, "any": Any, "json": pydantic.JsonValue,
    "free dict": dict, "model": Person, "recursion": Tree, "strict": Strict,
    "plain union": Cat | Dog | Fish,
    "tagged union": Annotated[Cat | Dog | Fish, Field(discriminator="kind")],
    "list of tagged": list[Annotated[Cat | Dog, Field(discriminator="kind")]],
    "recursive tagged union": Expression,
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_is_drawn_is_what_pydantic_takes(
    name: str, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(KEPT[name])
    schema = adapter.json_schema()
    ended = 0
    for seed in range(12):
        drawn = walk(start(compiler, "json_schema", schema=schema), vocabulary, random.Random(seed))
        if drawn is not None:
            ended += 1
            adapter.validate_json(drawn)
    assert ended > 3


@pytest.mark.parametrize("asked", [Address, Person, Strict, Cat, Tree])
def test_openais_strict_mode_is_taken(asked: type[BaseModel], compiler: Compiler) -> None:
    start(compiler, "json_schema", schema=to_strict_json_schema(asked))


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_decimals_are_taken_either_way(
    mode: Any, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    schema = TypeAdapter(decimal.Decimal).json_schema(mode=mode)
    constraint = start(compiler, "json_schema", schema=schema)
    assert walk(constraint, vocabulary, random.Random(1)) is not None


@pytest.mark.parametrize(
    "pattern",
    [  # as releases of Pydantic have written them
        r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
        r"^(?!^[-+.]*$)[+-]?0*\d{0,6}\.?\d{0,2}0*$",
    ],
)
def test_patterns_of_decimals_are_kept_to(
    pattern: str, compiler: Compiler, vocabulary: Vocabulary
) -> None:
    schema = {"type": "string", "pattern": pattern}
    for seed in range(8):
        drawn = walk(start(compiler, "json_schema", schema=schema), vocabulary, random.Random(seed))
        assert drawn is not None
        decimal.Decimal(drawn.decode().strip('"'))


def test_a_set_is_refused_since_its_items_could_repeat() -> None:
    with pytest.raises(InvalidRequest, match="/uniqueItems"):
        check_schema(TypeAdapter(set[int]).json_schema(), "")
