"""THE TABLE: everything TabAgent can be asked. Routes, messages and OpenAPI are made from it."""

from __future__ import annotations

from dataclasses import dataclass

from tabagent import errors as e
from tabagent.memory.enrich import Enrichment
from tabagent.operation import Access, Operation
from tabagent.retrieval.library import Library
from tabagent.services.chat import Chat, fold_chat
from tabagent.services.clients import Clients
from tabagent.services.completions import Completions, fold_completion
from tabagent.services.documents import Documents, fold_job
from tabagent.services.embeddings import Embeddings
from tabagent.services.events import Events, fold_events
from tabagent.services.generation import Generations
from tabagent.services.hardware import Hardware
from tabagent.services.labels import Labels
from tabagent.services.likeness import Likeness
from tabagent.services.models import Models
from tabagent.services.preferences import Preferences
from tabagent.services.pulls import Pulls, fold_pull
from tabagent.services.rag import Rag, fold_rag
from tabagent.services.registered import Registered
from tabagent.services.related import Related
from tabagent.services.rerank import Rerank
from tabagent.services.resources import Resources
from tabagent.services.responses import Responses, fold_response
from tabagent.services.resume import Resume, fold_resumed
from tabagent.services.sessions import Sessions
from tabagent.services.stats import Stats
from tabagent.services.system import System
from tabagent.services.text import TextTools
from tabagent.services.webrtc import Webrtc
from tabagent.sessions.keeper import Keeper

LOADING = (
    e.ModelNotFound, e.ModelNotLoaded, e.ModelLoading, e.ModelCorrupt, e.UnsupportedModel,
    e.OutOfMemory, e.WorkerCrashed, e.ModelCrashLoop, e.NotAvailableHere,
)  # fmt: skip
GENERATING = (
    *LOADING, e.UnsupportedParameter, e.ContextLengthExceeded, e.ChatTemplateRejected,
    e.WrongModelTask, e.Conflict, e.QueueFull, e.QueueTimeout, e.GenerationTimeout,
    e.FeatureDisabled, e.GrammarInvalid,
)  # fmt: skip
POOLING = (
    *LOADING, e.UnsupportedParameter, e.ContextLengthExceeded, e.WrongModelTask, e.QueueFull,
    e.QueueTimeout, e.GenerationTimeout,
)  # fmt: skip
EMBEDDING = (*POOLING, e.EmbeddingModelNotAvailable)
HUB = (
    e.ModelNotFound,
    e.AccessDenied,
    e.UnsupportedModel,
    e.UpstreamUnreachable,
    e.UpstreamInvalid,
    e.NotAvailableHere,
)
SAVING = (e.DatabaseBusy, e.InsufficientStorage)
COLLECTION = (e.CollectionNotFound, e.DatabaseBusy)
RETRIEVING = (*EMBEDDING, *COLLECTION, e.IndexRebuilding)
READING = (e.DocumentUnreadable,)
SESSION = (e.SessionNotFound, e.DatabaseBusy)
KEEPING = (*SESSION, e.NotFound, e.InsufficientStorage)
PULLING = (e.ChecksumMismatch, e.InsufficientStorage)
SIZING = (
    e.ModelNotFound, e.ModelCorrupt, e.UnsupportedModel, e.NotAvailableHere, e.OutOfMemory,
)  # fmt: skip
SIGNALLING = (e.PeerNotFound, e.Conflict, e.QueueFull, e.PayloadTooLarge, *SAVING)
RENDERING = (*LOADING, e.UnsupportedParameter, e.ChatTemplateRejected, e.WrongModelTask)


@dataclass(frozen=True, slots=True)
class Services:
    """One of each, built by `app.py`."""

    chat: Chat
    completions: Completions
    responses: Responses
    embeddings: Embeddings
    rerank: Rerank
    labels: Labels
    likeness: Likeness
    generation: Generations
    models: Models
    registered: Registered
    resume: Resume
    preferences: Preferences
    pulls: Pulls
    resources: Resources
    hardware: Hardware
    events: Events
    clients: Clients
    sessions: Sessions
    documents: Documents
    rag: Rag
    keeper: Keeper
    library: Library
    enrichment: Enrichment
    related: Related
    stats: Stats
    text: TextTools
    system: System
    webrtc: Webrtc


def operations(s: Services) -> list[Operation]:
    """The whole API. Needs no engine and does no I/O."""
    op, admin, public = Operation, Access.ADMIN, Access.PUBLIC
    return [
        # Generation
        op("chat", "POST /v1/chat/completions", s.chat.create, errors=(*GENERATING, *KEEPING), collect=fold_chat),
        op("generate", "POST /v1/completions", s.completions.create, errors=GENERATING, collect=fold_completion),
        op("responses", "POST /v1/responses", s.responses.create, errors=(*GENERATING, *KEEPING, e.ResponseNotFound), collect=fold_response, done=False),
        op("embeddings", "POST /v1/embeddings", s.embeddings.create, errors=EMBEDDING),
        op("rerank", "POST /v1/rerank", s.rerank.create, errors=EMBEDDING),
        op("classify", "POST /v1/classify", s.labels.classify, errors=POOLING),
        op("entities", "POST /v1/entities", s.labels.entities, errors=POOLING),
        op("similarity", "POST /v1/similarity", s.likeness.similarity, errors=EMBEDDING),
        op("semantic_search", "POST /v1/semantic-search", s.likeness.search, errors=EMBEDDING),
        op("recommend", "POST /v1/recommend", s.likeness.recommend, errors=EMBEDDING),
        op("evaluate_embeddings", "POST /v1/evaluate-embeddings", s.likeness.evaluate, errors=EMBEDDING),
        op("cluster", "POST /v1/cluster", s.likeness.cluster, errors=EMBEDDING),
        op("stop_generation", ("POST /v1/generation/stop", "POST /v1/halt"), s.generation.stop, errors=(e.RequestNotFound,)),
        op("get_halt_status", "GET /v1/halt", s.generation.status),
        op("resume_generation", "GET /v1/generation/{request_id}/events", s.resume.follow, errors=(e.RequestNotFound, e.Gone, *GENERATING), collect=fold_resumed),
        op("tokenize", "POST /v1/tokenize", s.text.tokenize, errors=LOADING),
        op("detokenize", "POST /v1/detokenize", s.text.detokenize, errors=LOADING),
        op("count_tokens", "POST /v1/count-tokens", s.text.count, errors=RENDERING),
        op("apply_template", "POST /v1/apply-template", s.text.apply_template, errors=RENDERING),
        # Models
        op("models", "GET /v1/models", s.models.list),
        op("get_loaded_models", ("GET /v1/models/loaded", "GET /v1/resources/loaded-models"), s.models.loaded),
        op("load_model", ("POST /v1/models/load", "POST /v1/load"), s.models.load, access=admin, errors=(*LOADING, e.Conflict)),
        op("unload_model", ("POST /v1/models/unload", "POST /v1/unload"), s.models.unload, access=admin, errors=(e.ModelNotFound, e.ModelNotLoaded, e.ModelBusy)),
        op("get_registered_models", "GET /v1/models/registered", s.registered.list),
        op("get_embedding_models", "GET /v1/embedding-models", s.embeddings.models),
        op("select_model", "POST /v1/models/select", s.preferences.select, access=admin, errors=(*LOADING, *SAVING, e.WrongModelTask, e.Conflict)),
        op("get_params", "GET /v1/params", s.preferences.get_params),
        op("set_params", "PUT /v1/params", s.preferences.set_params, access=admin, errors=SAVING),
        op("get_inference_settings", "GET /v1/models/{repo_id}/{variant}/settings", s.preferences.get_settings, errors=(e.ModelNotFound,)),
        op("save_inference_settings", "PUT /v1/models/{repo_id}/{variant}/settings", s.preferences.save_settings, access=admin, errors=(*SAVING, e.ModelNotFound)),
        op("get_model_quants", "GET /v1/models/{repo_id}/quants", s.pulls.quants, errors=HUB),
        op("model_info", "GET /v1/models/{model_id}", s.models.info, errors=(e.ModelNotFound,)),
        op("pull_model", "POST /v1/pull", s.pulls.pull, access=admin, errors=(*HUB, *PULLING), collect=fold_pull, done=False),
        op("list_pulls", "GET /v1/pulls", s.pulls.list),
        op("cancel_pull", "POST /v1/pulls/{id}/cancel", s.pulls.cancel, access=admin, errors=(e.NotFound,)),
        op("resume_pull", "POST /v1/pulls/{id}/resume", s.pulls.resume, access=admin, errors=(e.NotFound, e.NotAvailableHere, e.Conflict, e.InsufficientStorage)),
        op("delete_model", "POST /v1/delete", s.pulls.delete, access=admin, errors=(e.ModelNotFound, e.ModelBusy, e.Conflict)),
        op("set_hf_token", "POST /v1/hf/token", s.pulls.set_token, access=admin, errors=(e.Conflict,)),
        op("get_hf_token_status", "GET /v1/hf/token/status", s.pulls.token_status, access=admin),
        op("clear_hf_token", "DELETE /v1/hf/token", s.pulls.clear_token, access=admin),
        # Retrieval
        op("rag", "POST /v1/rag/query", s.rag.query, errors=(*RETRIEVING, *GENERATING, *KEEPING), collect=fold_rag, done=False),
        op("add_documents", "POST /v1/rag/documents", s.documents.add, errors=(*RETRIEVING, *READING, *SAVING), collect=fold_job, done=False, upload=True),
        op("list_documents", "GET /v1/rag/documents", s.documents.list, errors=COLLECTION),
        op("get_document", "GET /v1/rag/documents/{document_id}", s.documents.get, errors=(e.DocumentNotFound, e.DatabaseBusy)),
        op("delete_document", "DELETE /v1/rag/documents/{document_id}", s.documents.delete, errors=(*SAVING, e.DocumentNotFound)),
        op("collections", "GET /v1/rag/collections", s.documents.collections, errors=(e.DatabaseBusy,)),
        op("create_collection", "POST /v1/rag/collections", s.documents.create_collection, errors=(*SAVING, e.Conflict, e.ModelNotFound, e.WrongModelTask, e.EmbeddingModelNotAvailable)),
        op("rebuild_index", "POST /v1/rag/collections/{name}/rebuild", s.documents.rebuild_index, errors=(*SAVING, e.CollectionNotFound)),
        op("update_collection", "PATCH /v1/rag/collections/{name}", s.documents.update_collection, errors=(*SAVING, e.CollectionNotFound, e.Conflict, e.ModelNotFound, e.WrongModelTask)),
        op("delete_collection", "DELETE /v1/rag/collections/{name}", s.documents.delete_collection, errors=(*SAVING, e.CollectionNotFound)),
        op("add_folder", "POST /v1/rag/folders", s.documents.add_folder, access=admin, errors=(*RETRIEVING, *SAVING), collect=fold_job, done=False),
        op("list_folders", "GET /v1/rag/folders", s.documents.list_folders, access=admin, errors=(e.DatabaseBusy,)),
        op("scan_folder", "POST /v1/rag/folders/{folder_id}/scan", s.documents.scan_folder, access=admin, errors=(*RETRIEVING, *SAVING, e.NotFound), collect=fold_job, done=False),
        op("delete_folder", "DELETE /v1/rag/folders/{folder_id}", s.documents.delete_folder, access=admin, errors=(*SAVING, e.NotFound)),
        op("list_jobs", "GET /v1/rag/jobs", s.documents.list_jobs, errors=(e.DatabaseBusy,)),
        op("cancel_job", "POST /v1/rag/jobs/{job_id}/cancel", s.documents.cancel_job, errors=(*SAVING, e.NotFound, e.Conflict)),
        op("get_job", "GET /v1/rag/jobs/{job_id}", s.documents.get_job, errors=(e.NotFound, e.DatabaseBusy), collect=fold_job, done=False),
        op("related", "GET /v1/related/{kind}/{id}", s.related.list, errors=(e.NotFound, e.DocumentNotFound, e.DatabaseBusy, e.IndexRebuilding)),
        # Sessions
        op("create_session", "POST /v1/sessions", s.sessions.create, errors=(*SAVING, e.Conflict)),
        op("list_sessions", "GET /v1/sessions", s.sessions.list, errors=(e.DatabaseBusy,)),
        op("search_messages", "GET /v1/sessions/search", s.sessions.search, errors=(*EMBEDDING, e.DatabaseBusy)),
        op("import_session", "POST /v1/sessions/import", s.sessions.import_, errors=(*SAVING, e.Conflict), upload=True),
        op("get_history", "GET /v1/sessions/{session_id}/history", s.sessions.history, errors=SESSION),
        op("list_branches", "GET /v1/sessions/{session_id}/branches", s.sessions.branches, errors=SESSION),
        op("export_session", "GET /v1/sessions/{session_id}/export", s.sessions.export, errors=SESSION),
        op("save_message", "POST /v1/sessions/{session_id}/messages", s.sessions.save_message, errors=(*KEEPING, e.Conflict)),
        op("update_message", "PATCH /v1/sessions/{session_id}/messages/{message_id}", s.sessions.update_message, errors=KEEPING),
        op("get_session", "GET /v1/sessions/{session_id}", s.sessions.get, errors=SESSION),
        op("update_session", "PATCH /v1/sessions/{session_id}", s.sessions.update, errors=KEEPING),
        op("delete_session", "DELETE /v1/sessions/{session_id}", s.sessions.delete, errors=KEEPING),
        # Memory
        op("get_resources", "GET /v1/resources", s.resources.use),
        op("estimate_memory", "POST /v1/resources/estimate", s.resources.estimate, errors=SIZING),
        op("compatibility", "POST /v1/resources/compatibility", s.resources.compatibility, errors=SIZING),
        op("check_model_feasibility", "POST /v1/hardware/feasibility", s.resources.feasibility, errors=SIZING),
        # Hardware
        op("get_hardware_info", "GET /v1/hardware/info", s.hardware.info),
        op("get_recommended_models", "GET /v1/hardware/recommendations", s.hardware.recommend),
        op("get_recipes", "GET /v1/recipes", s.hardware.recipes),
        # Clients
        op("hello", "GET /v1/hello", s.clients.hello, access=public),
        op("pair", "POST /v1/pair", s.clients.pair, access=public, errors=SAVING),
        op("list_clients", "GET /v1/clients", s.clients.list, access=admin),
        op("approve_client", "POST /v1/clients", s.clients.approve, access=admin, errors=(*SAVING, e.NotFound)),
        op("revoke_client", "DELETE /v1/clients/{client_id}", s.clients.revoke, access=admin, errors=(*SAVING, e.NotFound)),
        # WebRTC
        op("webrtc_offer", "POST /v1/webrtc/offer", s.webrtc.offer, errors=(e.QueueFull, e.PayloadTooLarge, e.NotAvailableHere, *SAVING)),
        op("webrtc_answer", "POST /v1/webrtc/answer", s.webrtc.answer, errors=SIGNALLING),
        op("webrtc_ice", "POST /v1/webrtc/ice", s.webrtc.ice, errors=SIGNALLING),
        op("webrtc_session", "GET /v1/webrtc/session/{session_id}", s.webrtc.session, errors=(e.PeerNotFound, e.DatabaseBusy)),
        # The server itself
        op("health", ("GET /health", "GET /v1/health"), s.system.health, access=public),
        op("live", "GET /health/live", s.system.live, access=public),
        op("ready", "GET /health/ready", s.system.ready, access=public, errors=(e.DatabaseBusy, e.ShuttingDown)),
        op("system", "GET /v1/system/info", s.system.info),
        op("stats", "GET /v1/stats", s.stats.get),
        op("events", "GET /v1/events", s.events.follow, collect=fold_events, done=False),
        op("routes", "GET /v1/routes", s.system.routes, access=public),
    ]  # fmt: skip
