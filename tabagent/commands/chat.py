"""`tabagent chat`: a conversation in the terminal."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import httpx

from tabagent.commands.client import call, raise_for_problem, server
from tabagent.commands.failure import NO_SERVER, CommandFailed
from tabagent.config import Settings

HELP: Final = """\
  /clear         forget the conversation
  /model NAME    go on with another model
  /models        list the models
  /help          this
  /exit          leave, as Ctrl-D does
  Ctrl-C stops an answer; at the prompt it leaves."""

FAINT: Final = "\x1b[2m"
PLAIN: Final = "\x1b[0m"


def run(settings: Settings, model: str | None, system: str | None) -> None:
    """Read, answer, repeat."""
    if sys.stdin.isatty():  # Ctrl-C is ours also where whoever started us ignored it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with server(settings) as client:
        Conversation(client, model, system).go(_reader(settings))


class Conversation:
    """The messages so far and the model they go to."""

    def __init__(self, client: httpx.Client, model: str | None, system: str | None) -> None:
        self._client, self._model = client, model
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, str]] = list(self._opening)

    def go(self, read: Callable[[], str]) -> None:
        if self._model:
            self._choose(self._model)
        models = call(self._client, "GET", "/v1/models")["data"]
        name = self._model or next((m["id"] for m in models if m["selected"]), "the selected model")
        print(f"Chatting with {name}. /help lists what else there is.\n")
        while True:
            try:
                text = read().strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if text in ("/exit", "/quit", "/bye"):
                return
            if text.startswith("/"):
                self._command(text)
            elif text:
                self._turn(text)

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if name == "/clear":
            self._messages = list(self._opening)
            print("  The conversation is forgotten.\n")
        elif name == "/model" and rest.strip():
            try:
                self._choose(rest.strip())
                print(f"  From now on with {self._model}.\n")
            except CommandFailed as failed:
                print(f"  {failed}\n", file=sys.stderr)
        elif name == "/models":
            for model in call(self._client, "GET", "/v1/models")["data"]:
                print(f"  {model['id']}")
            print()
        else:
            print(HELP + "\n")

    def _choose(self, name: str) -> None:
        """Take a model by its full id. Raises CommandFailed when there is none of that name."""
        self._model = call(self._client, "GET", f"/v1/models/{quote(name, safe='')}")["id"]

    def _turn(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        answer: list[str] = []
        thinking = False
        try:
            for delta in self._stream():
                if (thought := delta.get("reasoning_content")) and sys.stdout.isatty():
                    thinking = True
                    print(f"{FAINT}{thought}{PLAIN}", end="", flush=True)
                if said := delta.get("content"):
                    answer.append(said)
                    print("\n\n" * thinking + said, end="", flush=True)
                    thinking = False
            print("\n")
        except KeyboardInterrupt:
            print("\n  (stopped)\n")
        except CommandFailed as failed:
            print(f"\n  {failed}\n  {failed.hint}\n", file=sys.stderr)
        if answer:
            self._messages.append({"role": "assistant", "content": "".join(answer)})
        else:
            self._messages.pop()  # what was not answered is not part of the conversation

    def _stream(self) -> Any:
        """What the answer gains, bit by bit. Leaving early hangs up, which frees the model."""
        request: dict[str, Any] = {"messages": self._messages, "stream": True}
        if self._model:
            request["model"] = self._model
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=request) as response:
                raise_for_problem(response)
                for line in response.iter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise CommandFailed(event["error"]["message"])
                    for choice in event["choices"]:
                        yield choice["delta"]
        except httpx.HTTPError as error:
            raise CommandFailed("the server went away", code=NO_SERVER) from error


def _reader(settings: Settings) -> Callable[[], str]:
    """A prompt with history by arrow keys; plain lines when nobody types."""
    if not sys.stdin.isatty():
        return lambda: input()
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    history = settings.data_dir / "chat_history"
    if not history.exists():
        history.touch(0o600)
    session: PromptSession[str] = PromptSession("> ", history=FileHistory(str(history)))
    return lambda: str(session.prompt())
