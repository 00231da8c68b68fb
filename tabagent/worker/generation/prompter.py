"""From a request to the tokens that its choices begin with, and everything that can be refused."""

from __future__ import annotations

from typing import Any

from tabagent import wire
from tabagent.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from tabagent.worker.constraint.vocabulary import Vocabulary
from tabagent.worker.generation.model import TextModel
from tabagent.worker.generation.sampling import biases
from tabagent.worker.generation.sequence import Prompt
from tabagent.worker.generation.vocabulary import check_tokens
from tabagent.worker.speech import Speech


class Prompter:
    """Makes prompts for one model, on any thread. `close` ends the processes beside it."""

    def __init__(self, model: TextModel, n_ctx: int) -> None:
        self._model, self._n_ctx = model, n_ctx
        self._control = {
            model.piece(token, special=True).decode(errors="replace"): token
            for token in model.control_tokens
        }
        self._speech = Speech(
            model.chat_template,
            self._control,
            {"bos_token": model.bos, "eos_token": model.eos},
            self._vocabulary,
        )

    def _vocabulary(self) -> Vocabulary:
        """All tokens, for grammars: seconds of work, so only once somebody wants one."""
        model, control = self._model, frozenset(self._model.control_tokens)
        tokens = range(model.n_vocab)
        return Vocabulary(
            pieces=[model.piece(token, special=True) for token in tokens],
            special=[token in control for token in tokens],
            end_tokens=model.end_tokens,
            tokenize=lambda text: model.tokenize(text, add_special=False, parse_special=False),
        )

    def prepare(self, command: wire.Generate) -> Prompt:
        """Raises InvalidRequest, ContextLengthExceeded, WrongModelTask, UnsupportedParameter,
        GrammarInvalid or ChatTemplateRejected.
        """
        param, text, tokens = self._read(command)
        if not tokens:
            raise InvalidRequest(
                "the prompt is empty",
                param=param,
                errors=[{"pointer": f"/{param}", "detail": "must hold at least one token"}],
            )
        limit, cause = self._limit(len(tokens), command.max_tokens)
        plan = self._speech.plan(command, text)
        closing = self._model.tokenize(plan.closing, add_special=False, parse_special=True)
        return Prompt(
            tokens=tokens,
            text=text,
            limit=limit,
            limit_cause=cause,
            bias=biases(self._model, command.sampling),
            constraint=plan.constraint,
            parser=plan.parser,
            shown=plan.shown,
            closing=closing,
        )

    def _read(self, command: wire.Generate) -> tuple[str, str, list[int]]:
        """Which parameter the prompt came in, its text, and its tokens."""
        model = self._model
        if command.messages is not None:
            return "messages", *self.render(command.messages, command.dialogue, True)
        if command.tokens is not None:
            check_tokens(model, command.tokens, "prompt")
            data = b"".join(model.piece(token, special=True) for token in command.tokens)
            return "prompt", data.decode(errors="replace"), command.tokens
        text = command.text or ""
        # `add_special` would also end the prompt where a model's file asks for that.
        tokens = model.tokenize(text, add_special=False, parse_special=False)
        if command.suffix is None:
            return "prompt", text, model.prompt_start + tokens
        if len(model.fill_tokens) != 3:
            raise UnsupportedParameter(
                "this model has no tokens to fill in the middle with: leave `suffix` out",
                param="suffix",
            )
        before, after, middle = model.fill_tokens
        rest = model.tokenize(command.suffix, add_special=False, parse_special=False)
        return "prompt", text, [*model.prompt_start, before, *tokens, after, *rest, middle]

    def _limit(self, prompt: int, asked: int | None) -> tuple[int, wire.StopCause]:
        room = self._n_ctx - prompt
        if room < 1:
            raise ContextLengthExceeded(
                f"the prompt has {prompt} tokens, the context holds {self._n_ctx} "
                "and at least one must be left for the answer",
                prompt_tokens=prompt,
                context_length=self._n_ctx,
                max_tokens=asked,
            )
        return (asked, "length") if asked is not None and asked <= room else (room, "context")

    def render(
        self, messages: list[dict[str, Any]], dialogue: wire.Dialogue, generation: bool
    ) -> tuple[str, list[int]]:
        """The prompt as text, and its tokens: what people wrote is never read as control tokens."""
        model = self._model
        rendered = self._speech.render(messages, dialogue, generation=generation)
        first, control = rendered.stretches[0] if rendered.stretches else ("", True)
        marked = model.bos != "" and control and first.startswith(model.bos)  # by the template
        tokens = [] if marked or not rendered.text else list(model.prompt_start)
        for text, special in rendered.stretches:
            tokens += model.tokenize(text, add_special=False, parse_special=special)
        return rendered.text, tokens

    def close(self) -> None:
        self._speech.close()
