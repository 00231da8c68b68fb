"""The catalogue of problems."""

from __future__ import annotations

import pytest

from tabagent.errors import (
    CATALOGUE,
    InternalError,
    ModelCorrupt,
    QueueFull,
    TabAgentError,
    from_slug,
    problem,
)

# The specification's list, status by status.
SPECIFIED = {
    400: "malformed-request invalid-request unsupported-parameter context-length-exceeded",
    401: "unauthorized pairing-required",
    403: "origin-not-allowed access-denied feature-disabled",
    404: "not-found model-not-found session-not-found collection-not-found document-not-found "
    "peer-not-found request-not-found response-not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    409: "conflict pull-in-progress model-busy",
    410: "gone",
    413: "payload-too-large",
    414: "uri-too-long",
    415: "unsupported-media-type",
    421: "host-not-allowed",
    431: "headers-too-large",
    422: "grammar-invalid chat-template-rejected document-unreadable url-not-allowed "
    "model-source-invalid model-corrupt unsupported-model wrong-model-task",
    429: "queue-full rate-limited",
    500: "internal-error",
    501: "not-available-here",
    502: "checksum-mismatch upstream-unreachable upstream-invalid",
    503: "model-not-loaded model-loading queue-timeout worker-crashed model-crash-loop "
    "database-busy index-rebuilding shutting-down server-unreachable embedding-model-not-available",
    504: "generation-timeout",
    507: "out-of-memory insufficient-storage",
}


def test_the_catalogue_is_the_specified_one() -> None:
    specified = {slug: status for status, slugs in SPECIFIED.items() for slug in slugs.split()}
    assert {slug: error.status for slug, error in CATALOGUE.items()} == specified


@pytest.mark.parametrize("error", CATALOGUE.values(), ids=lambda e: e.slug)
def test_every_problem_says_what_to_do(error: type[TabAgentError]) -> None:
    assert error.title and not error.title.endswith(".")
    assert error.advice.endswith(".")
    assert error.kind
    document = problem(error("what happened", param="x"), "the-id")
    assert document["type"] == f"/problems/{error.slug}"
    assert document["instance"] == "urn:uuid:the-id"
    assert document["error"] == {
        "message": "what happened",
        "type": error.kind,
        "param": "x",
        "code": error.slug,
    }


def test_members_stand_in_the_document() -> None:
    document = problem(QueueFull("full", queue_length=64, eta_s=2.5, retry_after=3), "i")
    assert (document["queue_length"], document["eta_s"]) == (64, 2.5)
    assert document["retryable"] is True


def test_an_error_survives_the_process_boundary() -> None:
    error = ModelCorrupt("broken", file="a.gguf", check="magic", expected="GGUF", actual="ELF")
    again = from_slug(error.slug, error.detail, error.members)
    assert type(again) is ModelCorrupt
    assert (again.detail, again.members) == (error.detail, error.members)


def test_an_unknown_slug_is_an_internal_error() -> None:
    assert type(from_slug("invented", "?", {})) is InternalError
