"""GGUF models in llama.cpp, behind the worker's contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tabagent import wire
from tabagent.errors import ContextLengthExceeded, InvalidRequest, WrongModelTask
from tabagent.worker.backend import Counts
from tabagent.worker.gguf.native import ENGINE, Context, Model
from tabagent.worker.gguf.sampling import Sampler, model_defaults
from tabagent.worker.gguf.scheduler import Scheduler, Sequence, finished
from tabagent.worker.template import ControlTokenGuard, TemplateRenderer
from tabagent.worker.text import TextStream

BATCH: Final = 512  # tokens computed at once


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's tokens, and how many may follow."""

    tokens: list[int]
    limit: int
    limit_cause: wire.StopCause


class GgufBackend:
    """One GGUF model."""

    engine = ENGINE

    def __init__(self) -> None:
        self._model: Model | None = None
        self._renderer: TemplateRenderer | None = None
        self._scheduler: Scheduler | None = None

    def load(self, command: wire.Load, progress: Callable[[float], None]) -> dict[str, Any]:
        model = Model(command.path, progress)
        if model.chat_template:
            self._renderer = TemplateRenderer(model.chat_template)  # starts beside the rest
        self._guard = ControlTokenGuard(model.control_tokens())
        self._defaults = model_defaults(model)
        self._n_ctx = command.n_ctx
        self._context = Context(
            model,
            kv_tokens=max(command.kv_tokens, command.n_ctx),
            slots=command.slots,
            batch=BATCH,
            threads=command.threads,
        )
        self._model = model
        self._scheduler = Scheduler(
            self._context,
            command.slots,
            model.piece,
            frozenset(model.end_tokens),
            command.queue_wait_s,
        )
        return {"device": "cpu", "vocabulary": model.n_vocab, "kv_tokens": self._context.kv_tokens}

    # ---- beside the engine's thread -------------------------------------------------------------
    def ask(self, command: wire.Render | wire.Tokenize | wire.Detokenize) -> dict[str, Any]:
        model = self._loaded()
        match command:
            case wire.Render():
                text, tokens = self._render(
                    command.messages, command.variables, command.add_generation_prompt
                )
                return {"text": text, "tokens": tokens}
            case wire.Tokenize():
                tokens = model.tokenize(
                    command.text,
                    add_special=command.add_special,
                    parse_special=command.parse_special,
                )
                pieces = [model.piece(t, special=True).decode(errors="replace") for t in tokens]
                return {"tokens": tokens, "pieces": pieces}
            case wire.Detokenize():
                for position, token in enumerate(command.tokens):
                    if not 0 <= token < model.n_vocab:
                        raise InvalidRequest(
                            f"token {token} is not in the vocabulary of {model.n_vocab}",
                            param="tokens",
                            errors=[
                                {
                                    "pointer": f"/tokens/{position}",
                                    "detail": f"must be 0 to {model.n_vocab - 1}",
                                }
                            ],
                        )
                data = b"".join(model.piece(token, special=True) for token in command.tokens)
                return {"text": data.decode(errors="replace")}

    def prepare(self, command: wire.Generate) -> Prepared:
        model = self._loaded()
        if command.messages is not None:
            param = "messages"
            _, tokens = self._render(command.messages, command.variables, True)
        else:
            param = "prompt"
            text = command.text or ""
            # `add_special` would also end the prompt where a model's file asks for that.
            tokens = model.prompt_start + model.tokenize(
                text, add_special=False, parse_special=False
            )
        if not tokens:
            raise InvalidRequest(
                "the prompt is empty",
                param=param,
                errors=[{"pointer": f"/{param}", "detail": "must hold at least one token"}],
            )
        room = self._n_ctx - len(tokens)
        if room < 1:
            raise ContextLengthExceeded(
                f"the prompt has {len(tokens)} tokens, the context holds {self._n_ctx} "
                "and at least one must be left for the answer",
                prompt_tokens=len(tokens),
                context_length=self._n_ctx,
                max_tokens=command.max_tokens,
            )
        asked = command.max_tokens
        if asked is not None and asked <= room:
            return Prepared(tokens, asked, "length")
        return Prepared(tokens, room, "context")

    def _render(
        self, messages: list[dict[str, Any]], variables: dict[str, Any], generation: bool
    ) -> tuple[str, list[int]]:
        """The prompt as text, and its tokens: what people wrote is never read as control tokens."""
        model = self._loaded()
        if self._renderer is None:
            raise WrongModelTask("this model has no chat template: use /v1/completions")
        guarded, mark = self._guard.guard({**variables, "messages": messages})
        prompt = self._renderer.render(
            {
                **guarded,
                "bos_token": model.bos,
                "eos_token": model.eos,
                "add_generation_prompt": generation,
            }
        )
        starts = model.bos != "" and prompt.startswith(model.bos)  # the template did it
        tokens = [] if starts or not prompt else list(model.prompt_start)
        for text, special in self._guard.split(prompt, mark):
            tokens += model.tokenize(text, add_special=False, parse_special=special)
        return prompt.replace(mark, "") if mark else prompt, tokens

    def _loaded(self) -> Model:
        assert self._model is not None, "the gateway loads before it asks"
        return self._model

    # ---- the engine's thread --------------------------------------------------------------------
    def submit(self, command: wire.Generate, prepared: Prepared) -> None:
        assert self._scheduler is not None
        self._scheduler.submit(
            Sequence(
                id=command.id,
                tokens=list(prepared.tokens),
                sampler=Sampler(self._loaded(), command.sampling, self._defaults),
                text=TextStream(command.stop),
                limit=prepared.limit,
                limit_cause=prepared.limit_cause,
            )
        )

    def cancel(self, id: int, *, halt: bool) -> wire.Finished | None:
        sequence = self._scheduler.cancel(id) if self._scheduler else None
        return finished(sequence, "halted") if sequence and halt else None

    def step(self) -> list[wire.Event]:
        assert self._scheduler is not None
        return self._scheduler.step()

    @property
    def busy(self) -> bool:
        return self._scheduler is not None and self._scheduler.busy

    def counts(self) -> Counts:
        scheduler = self._scheduler
        if scheduler is None:
            return Counts(0, 0, 0)
        return Counts(scheduler.running, scheduler.waiting, scheduler.steps)

    def close(self) -> None:
        if self._renderer:
            self._renderer.close()
        if self._scheduler:
            self._context.close()
        if self._model:
            self._model.close()
