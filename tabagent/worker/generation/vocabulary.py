"""What can be asked of a vocabulary alone, whatever its model is for."""

from __future__ import annotations

from typing import Any

from tabagent import wire
from tabagent.errors import InvalidRequest
from tabagent.worker.generation.model import TextModel


def answer(model: TextModel, command: wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
    """The reply to `command`. Raises InvalidRequest for a token that there is not."""
    if isinstance(command, wire.Tokenize):
        tokens = model.tokenize(
            command.text, add_special=command.add_special, parse_special=command.parse_special
        )
        pieces = [model.piece(t, special=True).decode(errors="replace") for t in tokens]
        return {"tokens": tokens, "pieces": pieces}
    check_tokens(model, command.tokens, "tokens")
    data = b"".join(model.piece(token, special=True) for token in command.tokens)
    return {"text": data.decode(errors="replace")}


def check_tokens(model: TextModel, tokens: list[int], param: str) -> None:
    """Raise InvalidRequest when one of them is no token of the model's."""
    for position, token in enumerate(tokens):
        if not 0 <= token < model.n_vocab:
            detail = f"must be 0 to {model.n_vocab - 1}"
            raise InvalidRequest(
                f"token {token} is not in the vocabulary of {model.n_vocab}",
                param=param,
                errors=[{"pointer": f"/{param}/{position}", "detail": detail}],
            )
