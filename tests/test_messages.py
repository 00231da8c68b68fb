"""The schema of messages holds for the messages that really come and go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from tabagent.app import api_description, message_schema
from tests.bridge import NativeClient, approve, chat
from tests.live import FAKE, LiveServer, fake_models

ROOT = Path(__file__).parent.parent
SCHEMA: dict[str, Any] = json.loads(json.dumps(message_schema()))


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


def test_the_committed_file_is_current_and_a_schema() -> None:
    assert json.loads((ROOT / "openapi" / "messages.json").read_text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)


def test_every_operation_is_a_message_and_takes_its_example() -> None:
    client = validator("ClientMessage")
    described = api_description()["paths"]
    names = {
        entry["operationId"]
        for methods in described.values()  # type: ignore[attr-defined]  # a JSON document
        for entry in methods.values()
        if not entry.get("description", "").startswith("Alias of")
    }
    assert set(SCHEMA["routes"]) == names
    for name, route in SCHEMA["routes"].items():
        request = SCHEMA["$defs"][f"request.{name}"]
        payload = SCHEMA["$defs"][request["properties"]["payload"]["$ref"].rpartition("/")[2]]
        for example in payload.get("examples", []):
            message = {"request_id": "a", "route": name, "payload": example}
            assert list(client.iter_errors(message)) == [], name
        assert route["access"] in ("public", "user", "admin")


@pytest.mark.parametrize(
    "message",
    [
        {"request_id": "a", "route": "health"},
        {"request_id": "a", "route": "cancel"},
        {"route": "pong"},
        {"request_id": "a", "event": "part", "seq": 0, "more": False, "text": "x"},
    ],
)
def test_what_clients_send_is_in_it(message: dict[str, Any]) -> None:
    validator("ClientMessage").validate(message)


@pytest.mark.parametrize(
    "message",
    [
        {"request_id": "", "route": "health"}, {"route": "health"},
        {"request_id": "a", "route": "no_such"}, {"request_id": "a", "route": "chat"},
        {"request_id": "a", "route": "health", "payload": {"x": 1}},
    ],
)  # fmt: skip
def test_what_would_be_refused_is_not_in_it(message: dict[str, Any]) -> None:
    assert not validator("ClientMessage").is_valid(message)


def test_what_a_server_says_is_in_it(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    with LiveServer(tmp_path, extra=fake_models(), model=FAKE) as server:
        approve(server)
        with NativeClient(server) as client:
            asked = [
                client.ask("models"), client.ask("chat", chat("3")), client.ask("nothing"),
                client.ask("detokenize", {"model": FAKE, "tokens": [65] * 600_000}),
            ]  # fmt: skip
            client.frame(b"nonsense")
            ended = client.ask("events")
            client.say(request_id=ended, route="cancel")
            over: set[str | None] = set()
            while over != {*asked, ended, None}:
                message = client.raw()
                assert message is not None
                said.append(message)
                if message.get("event") != "chunk" and not message.get("more"):
                    over.add(message["request_id"])
    kinds = {message.get("event", "data" if message["success"] else "error") for message in said}
    assert kinds == {"data", "error", "chunk", "done", "part", "cancelled"}
    for message in said:
        validator("ServerMessage").validate(message)
