"""Prompts of known length, new ones for every seed: no cache has seen them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

# Each is one token with the space before it.
WORDS: Final = """
able acid after again air all animal answer apple arm army art ask aunt autumn away baby back bad
bag ball bank base bath bed bell best bird blood blue board boat body bone book box boy brain bread
bridge brother brown build burn bus camp car card care cat chain chair child church circle city clay
clean clear clock cloth cloud coat cold color corn cost cotton cow cup dance dark daughter day deep
dish dog door dream dress drink drive drop dry dust ear earth east edge egg engine evening eye face
fact fall family farm father field finger fire fish flag floor flower food foot forest fork fruit
garden gift girl glass gold grain grass green ground hair hall hand hat head heart hill history home
horse hospital hour house ice iron island joy key king knee lake lamp land law leaf leg letter light
line lip list lock map market meal meat milk mind minute money month moon morning mother mountain
mouth music nail name neck needle night noise north nose office oil orange paint paper park pen
picture place plane plant plate poem point pot price queen rain red rice ring river road rock roof
room root rope rose salt sand school sea seed sheep ship shirt shoe silver sister skin sky sleep
snow soap song south space spoon spring square star station stone store storm story street sugar
summer sun table tail tea teacher time tooth town train tree uncle valley village voice wall war
water week west wheat wheel wife wind window wine winter wood wool word work world year yellow
""".split()  # noqa: SIM905  # as a list it would be a page


def text(words: int, seed: str) -> str:
    """So many words drawn by `seed`."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def chat(
    words: int, seed: str, *, tokens: int, system: str | None = None, number: int = 1
) -> dict[str, Any]:
    """A streamed chat with `words` of question and exactly `tokens` of answer, on either server.

    Sampling is llama.cpp's own default, said aloud. `number` seeds it.
    """
    messages = [{"role": "user", "content": text(words, seed)}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def chats(count: int, words: int, seed: str, *, tokens: int) -> Sequence[dict[str, Any]]:
    """As many different ones."""
    return [chat(words, f"{seed}/{n}", tokens=tokens, number=n) for n in range(1, count + 1)]
