"""What backends that generate have in common: requests become sequences, which take their turns."""

from __future__ import annotations

from typing import Any

from tabagent import wire
from tabagent.errors import WrongModelTask
from tabagent.worker.backend import Counts, Work
from tabagent.worker.generation import vocabulary
from tabagent.worker.generation.model import TextModel
from tabagent.worker.generation.prompter import Prompter
from tabagent.worker.generation.sampling import Sampler
from tabagent.worker.generation.sequence import Choice, Generation, Prompt
from tabagent.worker.generation.turns import Turns


class GeneratingBackend:
    """A Backend that lacks `load` and what an engine gives back. `load` sets all of these."""

    sequence: type[Choice]
    _text_model: TextModel | None = None
    _prompter: Prompter | None = None
    _turns: Turns[Any] | None = None  # None while it sleeps
    _defaults: dict[str, float]  # how tokens are drawn where a request does not say

    # ---- beside the engine's thread -------------------------------------------------------------
    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        model, prompter = self._loaded()
        if isinstance(command, wire.Render):
            text, tokens = prompter.render(
                command.messages, command.dialogue, command.add_generation_prompt
            )
            return {"text": text, "tokens": tokens}
        return vocabulary.answer(model, command)

    def prepare(self, command: Work) -> Prompt:
        if not isinstance(command, wire.Generate):
            raise WrongModelTask("this model generates text: it makes no vectors and ranks nothing")
        return self._loaded()[1].prepare(command)

    def _loaded(self) -> tuple[TextModel, Prompter]:
        assert self._text_model is not None, "the gateway loads before it asks"
        assert self._prompter is not None
        return self._text_model, self._prompter

    # ---- the engine's thread --------------------------------------------------------------------
    def submit(self, command: Work, prepared: Prompt) -> None:
        assert isinstance(command, wire.Generate), "`prepare` refuses the others"
        assert self._turns is not None
        model, _ = self._loaded()
        generation: Generation[Any] = Generation(command, prepared)
        generation.sequences = [
            self.sequence(
                generation,
                index,
                Sampler(model, command.sampling, self._defaults, prepared.bias, choice=index),
                model.piece,
            )
            for index in range(command.n)
        ]
        self._turns.submit(generation)

    def cancel(self, id: int, *, halt: bool) -> list[wire.Event]:
        return self._turns.cancel(id, halt=halt) if self._turns else []

    def step(self) -> list[wire.Event]:
        assert self._turns is not None
        return self._turns.step()

    @property
    def busy(self) -> bool:
        return self._turns is not None and self._turns.busy

    def counts(self) -> Counts:
        turns = self._turns
        if turns is None:
            return Counts(0, 0, 0)
        return Counts(turns.running, turns.waiting, turns.steps)
