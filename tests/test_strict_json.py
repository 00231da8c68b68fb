"""Bodies that are not quite JSON."""

from __future__ import annotations

import pytest

from tabagent.errors import MalformedRequest
from tabagent.strict_json import load_object


def test_an_object_is_read_as_it_is() -> None:
    assert load_object('{"a": [1, 2.5, "ü", null, true]}'.encode()) == {
        "a": [1, 2.5, "ü", None, True]
    }
    assert load_object(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"b": {"a": 1, "a": 1}}', "stands twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper than 64"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "deeper than 64"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_anything_else_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedRequest, match=reason):
        load_object(body)
