"""Every error TabAgent answers with: one tree, one problem each (RFC 9457).

    TabAgentError
    ├── BadRequest            400: malformed, invalid, unsupported, too long for the context
    ├── Refused               401, 403, 421: who you are or where you come from
    ├── NotFound, Gone        404, 405, 410: what is not there
    ├── Busy                  408, 409, 429: not now
    ├── TooLarge              413, 414, 415, 431: the request's outside
    ├── Unprocessable         422: well-formed, but this content cannot be used
    ├── InternalError, NotAvailableHere    500, 501
    ├── Upstream              502: another server failed us
    ├── Unavailable           503: a model, worker or store cannot serve this now
    └── OutOfResources        504, 507: time, memory, disk

A class is a row of the catalogue: slug, status, title, whether a retry can help, and advice for the
person who reads `/problems/<slug>`. Members (RFC 9457 extension members) are keyword arguments.
A detail never holds a path, a user name or a traceback: it may cross the network.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final


class TabAgentError(Exception):
    """Base of the tree. Raise a leaf; catch whatever branch you mean."""

    slug: ClassVar[str] = ""
    status: ClassVar[int] = 500
    title: ClassVar[str] = ""
    advice: ClassVar[str] = ""
    retryable: ClassVar[bool] = False
    kind: ClassVar[str] = "server_error"  # OpenAI's `error.type`

    def __init__(
        self,
        detail: str = "",
        *,
        param: str | None = None,
        retry_after: float | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.param = param
        self.retry_after = retry_after
        self.members = members


class BadRequest(TabAgentError):
    status, kind = 400, "invalid_request_error"


class MalformedRequest(BadRequest):
    slug, title = "malformed-request", "The request is not well-formed"
    advice = "Send one JSON object in UTF-8, with finite numbers, no repeated keys, at most 64 levels deep."


class InvalidRequest(BadRequest):
    """Members: `errors`, a list of `{pointer, detail}` with RFC 6901 pointers into the request."""

    slug, title = "invalid-request", "The request is not valid"
    advice = "Each entry of `errors` points at a value and says what it should be. Unknown fields are refused, never dropped."


class UnsupportedParameter(BadRequest):
    """Members: `param`, the name that cannot be honoured."""

    slug, title = "unsupported-parameter", "A parameter cannot be honoured"
    advice = (
        "Leave the named parameter out. TabAgent refuses what it would otherwise have to ignore."
    )


class ContextLengthExceeded(BadRequest):
    """Members: `prompt_tokens`, `context_length`, `max_tokens`."""

    slug, title = "context-length-exceeded", "The prompt does not fit into the model's context"
    advice = "Shorten the prompt, or load the model with a larger `n_ctx`. Nothing is cut silently."


class Refused(TabAgentError):
    status, kind = 403, "permission_error"


class Unauthorized(Refused):
    slug, title, status = "unauthorized", "A token is needed", 401
    kind = "authentication_error"
    advice = "Send `Authorization: Bearer TOKEN`. `tabagent token` prints the owner's token."


class PairingRequired(Refused):
    slug, title, status = "pairing-required", "This extension is not approved yet", 401
    kind = "authentication_error"
    advice = "Call `pair` for a code, then approve it once on the machine that serves: `tabagent clients approve CODE`."


class OriginNotAllowed(Refused):
    slug, title = "origin-not-allowed", "This origin may not call the gateway"
    advice = "Web pages may not call a local gateway. Extensions are approved once by its owner."


class AccessDenied(Refused):
    slug, title = "access-denied", "This caller may not do that"
    advice = "The operation needs more access than the token holds; use the owner's token."


class FeatureDisabled(Refused):
    """Members: `setting`, the switch that is off."""

    slug, title = "feature-disabled", "This feature is switched off"
    advice = "The owner can switch it on with the setting that the problem names."


class HostNotAllowed(Refused):
    slug, title, status = "host-not-allowed", "The Host header names another server", 421
    advice = "Use 127.0.0.1, localhost or [::1] with the gateway's port, or add the name to TABAGENT_ALLOWED_HOSTS."


class NotFound(TabAgentError):
    slug, title, status = "not-found", "There is nothing here", 404
    kind = "not_found_error"
    advice = "GET /v1/routes lists every operation; /swagger-ui/ shows them."


class ModelNotFound(NotFound):
    """Members: `model`, `pull_hint`."""

    slug, title = "model-not-found", "No such model"
    advice = "`tabagent models` lists what is here. Put a .gguf file into the models directory, or leave `model` out to use the selected model."


class SessionNotFound(NotFound):
    slug, title = "session-not-found", "No such session"
    advice = "List the sessions and use one of their ids."


class CollectionNotFound(NotFound):
    slug, title = "collection-not-found", "No such collection"
    advice = "List the collections, or create this one first."


class DocumentNotFound(NotFound):
    slug, title = "document-not-found", "No such document"
    advice = "List the collection's documents and use one of their ids."


class PeerNotFound(NotFound):
    slug, title = "peer-not-found", "No such peer"
    advice = "The signalling session has expired or never was; start with a new offer."


class RequestNotFound(NotFound):
    slug, title = "request-not-found", "No such request is running"
    advice = "It has ended, or belongs to another caller. GET /v1/halt lists yours."


class ResponseNotFound(NotFound):
    slug, title = "response-not-found", "No such response is kept"
    advice = (
        "A limited number of responses is kept. Send the whole conversation as `input` instead."
    )


class MethodNotAllowed(NotFound):
    slug, title, status = "method-not-allowed", "This path has no such method", 405
    kind = "invalid_request_error"
    advice = "The `Allow` header names the methods of this path."


class Gone(NotFound):
    slug, title, status = "gone", "This is no longer kept", 410
    advice = "The replay buffer has moved on; ask again from the beginning."


class Busy(TabAgentError):
    retryable = True
    kind = "rate_limit_error"


class RequestTimeout(Busy):
    slug, title, status = "request-timeout", "The request did not arrive in time", 408
    kind = "invalid_request_error"
    advice = "Send headers within 10 seconds and the body within a minute."


class Conflict(Busy):
    slug, title, status = "conflict", "This clashes with what is there", 409
    retryable = False
    kind = "invalid_request_error"
    advice = "Fetch the present state and decide again."


class PullInProgress(Conflict):
    """Members: `pull_id`."""

    slug, title = "pull-in-progress", "This model is already being pulled"
    advice = "Follow the running pull by its id."


class ModelBusy(Conflict):
    slug, title = "model-busy", "The model is answering requests"
    advice = "Wait for them, or send `force: true`, which ends them with an error."
    retryable = True


class QueueFull(Busy):
    """Members: `queue_length`, `eta_s`."""

    slug, title, status = "queue-full", "Too many requests are waiting for this model", 429
    advice = "Wait as long as `Retry-After` says, then send the request again."


class RateLimited(Busy):
    slug, title, status = "rate-limited", "Too many attempts", 429
    advice = "Wait as long as `Retry-After` says. Twenty wrong tokens in a minute close the door for a while, and few extensions may ask to be approved at once."


class TooLarge(TabAgentError):
    kind = "invalid_request_error"


class PayloadTooLarge(TooLarge):
    """Members: `limit_bytes`."""

    slug, title, status = "payload-too-large", "The body is too large", 413
    advice = "Send less at once; `limit_bytes` is the limit."


class UriTooLong(TooLarge):
    slug, title, status = "uri-too-long", "The request target is too long", 414
    advice = "Send parameters in the body."


class UnsupportedMediaType(TooLarge):
    slug, title, status = "unsupported-media-type", "The body must be JSON", 415
    advice = "Send `Content-Type: application/json`."


class HeadersTooLarge(TooLarge):
    slug, title, status = "headers-too-large", "The headers are too large", 431
    advice = "Send at most 64 headers and 16 KiB of them."


class Unprocessable(TabAgentError):
    status, kind = 422, "invalid_request_error"


class GrammarInvalid(Unprocessable):
    slug, title = "grammar-invalid", "The grammar or schema cannot be used"
    advice = "The detail names what is wrong. Limits: 64 KiB, 32 levels, 500 properties."


class ChatTemplateRejected(Unprocessable):
    slug, title = "chat-template-rejected", "The model's chat template refused these messages"
    advice = "Many templates want user and assistant messages to alternate, starting with the user. The detail is the template's own word."


class DocumentUnreadable(Unprocessable):
    slug, title = "document-unreadable", "The document cannot be read"
    advice = "Send text, Markdown, HTML, a Word file, or a PDF that has text and no password."


class UrlNotAllowed(Unprocessable):
    slug, title = "url-not-allowed", "This address may not be fetched"
    advice = "Only public http(s) addresses are fetched, and only when the owner allows it."


class ModelSourceInvalid(Unprocessable):
    slug, title = "model-source-invalid", "This is not the name of a model source"
    advice = "Name a model as owner/repo or owner/repo:VARIANT."


class ModelCorrupt(Unprocessable):
    """Members: `file`, `check`, `expected`, `actual`."""

    slug, title = "model-corrupt", "The model file is damaged or not a model"
    advice = (
        "`check` names what failed. Get the file again; an incomplete download is the usual cause."
    )


class UnsupportedModel(Unprocessable):
    """Members: `architecture`."""

    slug, title = "unsupported-model", "This engine cannot run this kind of model"
    advice = "Choose another model, or update TabAgent: engines learn new architectures often."


class WrongModelTask(Unprocessable):
    slug, title = "wrong-model-task", "This model does another kind of work"
    advice = "Use a model whose `task` matches the operation; GET /v1/models tells."


class InternalError(TabAgentError):
    slug, title = "internal-error", "Something went wrong inside TabAgent"
    advice = "The request id in `instance` finds the cause in the server's log. Please report it."


class NotAvailableHere(TabAgentError):
    """Members: `what`, `why`."""

    slug, title, status = "not-available-here", "This installation cannot do that", 501
    advice = "The problem says what is missing and why."


class Upstream(TabAgentError):
    status, retryable = 502, True


class ChecksumMismatch(Upstream):
    slug, title = "checksum-mismatch", "The downloaded bytes are not the published ones"
    advice = "Pull again. If it happens again, the hub or something between is at fault."


class UpstreamUnreachable(Upstream):
    slug, title = "upstream-unreachable", "The other server cannot be reached"
    advice = "Everything but downloads works offline; check the network and try again."


class UpstreamInvalid(Upstream):
    slug, title = "upstream-invalid", "The other server's answer makes no sense"
    advice = "Try again later."


class Unavailable(TabAgentError):
    status, retryable = 503, True


class ModelNotLoaded(Unavailable):
    """Members: `load_hint`."""

    slug, title = "model-not-loaded", "The model is not loaded"
    retryable = False
    advice = "Load it with `tabagent load NAME`, or leave automatic loading on."


class ModelLoading(Unavailable):
    """Members: `progress`, `eta_s`."""

    slug, title = "model-loading", "The model is still loading"
    advice = "Try again shortly."


class QueueTimeout(Unavailable):
    slug, title = "queue-timeout", "The request waited too long for its turn"
    advice = "Send fewer requests at once, or load the model with more slots."


class WorkerCrashed(Unavailable):
    """Members: `signal`, `last_words`, `tokens_sent`."""

    slug, title = "worker-crashed", "The process that ran the model has died"
    advice = (
        "It is started again by itself; send the request again. `last_words` is what it said last."
    )


class ModelCrashLoop(Unavailable):
    slug, title = "model-crash-loop", "The model keeps crashing"
    retryable = False
    advice = "It crashed 5 times in 300 seconds and rests now. Load it again by hand after finding the cause."


class DatabaseBusy(Unavailable):
    slug, title = "database-busy", "The database is locked by someone else"
    advice = "Try again shortly."


class IndexRebuilding(Unavailable):
    slug, title = "index-rebuilding", "The search index is being rebuilt"
    advice = "Try again shortly; the documents themselves are safe."


class ShuttingDown(Unavailable):
    slug, title = "shutting-down", "The server is shutting down"
    advice = "Start it again with `tabagent serve`."


class ServerUnreachable(Unavailable):
    slug, title = "server-unreachable", "The server does not run, or does not answer"
    advice = "The browser's native host says this. Start the server with `tabagent serve`; `tabagent doctor --browser` finds what is wrong."


class EmbeddingModelNotAvailable(Unavailable):
    slug, title = "embedding-model-not-available", "No embedding model can be used"
    retryable = False
    advice = "Name an embedding model, or pull one."


class OutOfResources(TabAgentError):
    status = 507


class GenerationTimeout(OutOfResources):
    slug, title, status = "generation-timeout", "The generation took too long", 504
    advice = "Ask for fewer tokens, or use a smaller model."


class OutOfMemory(OutOfResources):
    """Members: `required_bytes`, `available_bytes`, `device`; before a load also `largest_context`,
    the tokens that would fit, if any.
    """

    slug, title = "out-of-memory", "There is not enough memory for this"
    advice = "Use a smaller model or quantisation, a smaller `n_ctx`, or unload another model."


class InsufficientStorage(OutOfResources):
    slug, title = "insufficient-storage", "There is not enough disk space"
    advice = "Free some space and try again; nothing half-written was kept."


def _leaves(cls: type[TabAgentError]) -> list[type[TabAgentError]]:
    own = [cls] if cls.slug else []
    return own + [leaf for child in cls.__subclasses__() for leaf in _leaves(child)]


CATALOGUE: Final[dict[str, type[TabAgentError]]] = {e.slug: e for e in _leaves(TabAgentError)}
"""Every problem by its slug; code, problem pages and OpenAPI all read this one."""


def problem(error: TabAgentError, request_id: str) -> dict[str, Any]:
    """The problem document of `error`: RFC 9457 members plus OpenAI's `error` member.

    The `openai` clients show a person nothing but `error.message`, so the detail stands there too.
    """
    return {
        "type": f"/problems/{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": f"urn:uuid:{request_id}",
        "code": error.slug,
        "retryable": error.retryable,
        **({"param": error.param} if error.param else {}),
        **error.members,
        "error": {
            "message": error.detail,
            "type": error.kind,
            "param": error.param,
            "code": error.slug,
        },
    }


def from_slug(slug: str, detail: str, members: dict[str, Any]) -> TabAgentError:
    """Rebuild an error that crossed the process boundary; an unknown slug is an internal error."""
    return CATALOGUE.get(slug, InternalError)(detail, **members)
