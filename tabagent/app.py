"""The composition root: builds everything once, and owns start and stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog
from starlette.types import ASGIApp

from tabagent.catalog.models import Catalog, Model
from tabagent.catalog.places import hub_cache
from tabagent.config import Settings
from tabagent.dispatcher import Dispatcher
from tabagent.engine.loaded import Loaded, Moment
from tabagent.engine.meter import Meters
from tabagent.engine.pooling import PoolingRequests
from tabagent.engine.supervisor import Supervisor
from tabagent.errors import TabAgentError
from tabagent.exposition import Sources, expose
from tabagent.hardware.devices import Look
from tabagent.hardware.findings import Memory
from tabagent.hardware.limits import memory
from tabagent.hardware.look import devices_now
from tabagent.hardware.machine import this_machine
from tabagent.hardware.probe import probe
from tabagent.hub.jobs import Job, Jobs
from tabagent.hub.token import HubToken
from tabagent.journal import Journal
from tabagent.memory.enrich import Enrichment
from tabagent.memory.links import Links
from tabagent.memory.meaning import Meaning
from tabagent.messages import messages
from tabagent.openapi import document
from tabagent.operation import Access, Call, Caller, NoParameters, Reply
from tabagent.operations import Services, operations
from tabagent.presence import Presence
from tabagent.replays import Replays
from tabagent.replies.changes import ModelChange
from tabagent.replies.generation import Generator
from tabagent.replies.hardware import HardwareInfo
from tabagent.replies.pulls import Pull
from tabagent.replies.vectors import Embedder
from tabagent.retrieval.library import Library
from tabagent.services.chat import Chat
from tabagent.services.clients import Clients
from tabagent.services.completions import Completions
from tabagent.services.documents import Documents
from tabagent.services.embeddings import Embeddings
from tabagent.services.events import Events
from tabagent.services.generation import Generations
from tabagent.services.hardware import Hardware
from tabagent.services.hardware.recipes import RecipeList
from tabagent.services.hardware.recommendations import RecommendationsRequest, RecommendedModels
from tabagent.services.labels import Labels
from tabagent.services.likeness import Likeness
from tabagent.services.models import ModelInfo, Models, ModelsRequest
from tabagent.services.preferences import Preferences
from tabagent.services.pulls import Pulls
from tabagent.services.rag import Rag
from tabagent.services.registered import Registered
from tabagent.services.related import Related
from tabagent.services.rerank import Rerank
from tabagent.services.resources import Resources
from tabagent.services.responses import Responses, Shelf
from tabagent.services.resume import Resume
from tabagent.services.sessions import Sessions
from tabagent.services.stats import Stats
from tabagent.services.system import System
from tabagent.services.text import TextTools
from tabagent.services.webrtc import Webrtc
from tabagent.sessions.changes import Changes
from tabagent.sessions.keeper import Keeper
from tabagent.stores.clients import ClientStore
from tabagent.stores.database import Database, place_of
from tabagent.stores.records import Records
from tabagent.stores.settings import SavedSettings
from tabagent.telemetry.event_loop import Lag
from tabagent.telemetry.requests import Requests
from tabagent.telemetry.traces import Traces, traces
from tabagent.transports import http, webrtc
from tabagent.transports.exchanges import Exchanges
from tabagent.transports.gate import OWNER, Gate
from tabagent.transports.metrics import metrics_route
from tabagent.transports.native import NativeServer
from tabagent.transports.pages import page_routes

log = structlog.get_logger(__name__)

DATABASE: Final = "tabagent.db"
OWNER_ORIGIN: Final = "owner:"
"""Before the owner's token, where a command and no browser's host opens the native socket."""
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only shown
GUIDE: Final = Path(__file__).parent / "builtin" / "guide.gguf"
EMBED: Final = Path(__file__).parent / "builtin" / "embed" / "onnx" / "model_int8.onnx"


class Gateway:
    """Everything that serves. `files` are models named on the command line, `extra` test models."""

    def __init__(
        self,
        settings: Settings,
        token: str,
        *,
        files: Iterable[Path] = (),
        extra: Iterable[Model] = (),
        look: Look = devices_now,
        memory: Callable[[], Memory] = memory,
    ) -> None:
        self.settings = settings
        # Replaced by what is really listened on: a free port, or a socket that was handed over.
        self.host, self.port = settings.host, settings.port
        self.catalog = catalog_of(settings, files, extra)
        self.journal = Journal()
        self.presence = Presence()
        self.supervisor = Supervisor(settings, memory=memory, look=look, tell=self._note_model)
        self.database = database_of(settings)
        self.saved = SavedSettings(self.database)
        self.clients = ClientStore(self.database)
        self.records = Records(self.database, settings.data_dir)
        self.replays = replays_of(settings)
        self.services = build_services(
            settings,
            self.catalog,
            self.supervisor,
            self.journal,
            self.saved,
            self.records,
            self.replays,
            Clients(
                self.clients,
                self.presence,
                self.journal,
                url=lambda: self.url,
                transports=self._transports,
            ),
        )
        self.dispatcher = Dispatcher(
            operations(self.services),
            presence=self.presence,
            replays=self.replays,
            resume_ttl_s=settings.resume_ttl_s,
            requests=Requests(access_log=settings.logs_access),
        )
        self.services.system.table = self.dispatcher.operations.values()
        self.services.system.draining = lambda: self.dispatcher.draining
        self.lag = Lag()
        self._traces: Traces | None = None
        table = self.dispatcher.operations.values()
        self.pages = [
            *page_routes(lambda: document(table), lambda: self.services.models.selected),
            metrics_route(lambda accept: expose(self._sources(), accept)),
        ]
        application = http.build(
            http.operation_routes(self.dispatcher, settings, self.presence), self.pages
        )
        self.native = NativeServer(self.dispatcher, settings, self._vouched_for)
        gate = Gate(application, settings, token, lambda: self.port, self.clients)
        self._holder = gate.holder
        self.peers = webrtc.Peers(
            self.dispatcher, settings, self.presence, self._holder, self.services.webrtc.note
        )
        self.services.webrtc.answer_offer = self.peers.answer
        self.hurry = False  # set by a second signal: stop without draining
        self.asgi: ASGIApp = Exchanges(gate, self.dispatcher.requests)

    @property
    def url(self) -> str | None:
        """Where a program of this machine finds HTTP, if it is served."""
        if self.settings.mode == "native":
            return None
        host = EVERYWHERE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def _sources(self) -> Sources:
        """What is counted, for Prometheus."""
        return Sources(
            self.dispatcher,
            self.supervisor,
            self.services.stats.meters,
            self.services.library,
            self.services.pulls,
            self.replays,
            self.lag,
            native=lambda: self.native.connections,
            peers=lambda: self.peers.count,
        )

    def _transports(self) -> list[str]:
        """What a client can come over now."""
        native = ["native"] if self.native.address else []
        served = [] if self.settings.mode == "native" else ["http"]
        return [*native, *served, *(["webrtc"] if webrtc.available() else [])]

    def _vouched_for(self, origin: str) -> Caller:
        """Who an extension is, by the word of the browser that started its host."""
        if origin.startswith(OWNER_ORIGIN):
            return self._holder(origin.removeprefix(OWNER_ORIGIN)) or Caller("", Access.PUBLIC)
        client = self.clients.of_origin(origin)
        if client is None:
            return Caller("", Access.PUBLIC, origin, vouched=True)
        self.clients.used(client.id)
        return Caller(client.id, client.access, origin, vouched=True)

    def _note_model(self, entry: Loaded, moment: Moment, error: TabAgentError | None) -> None:
        under_way = moment in ("loading", "restarting") and entry.progress > 0
        change = ModelChange.of(entry, moment, error)
        self.journal.note("model", entry.model.id, change, passing=under_way)

    def start(self) -> None:
        """Read what was saved, before the first request. Blocks. Raises DatabaseUnusable."""
        self.database.check()
        self.saved.read()
        self.clients.read()
        self.records.recover()
        self._traces = self.dispatcher.requests.trace = traces(self.settings.otlp_endpoint)

    async def open(self) -> None:
        """Listen for the browser's hosts, where that is wanted. Raises OSError, UnsafeFile."""
        if self.settings.mode != "http":
            await self.native.start()

    def started(self) -> None:
        """Go on with what an earlier server left, once this one listens."""
        self.services.library.start()
        self.services.enrichment.start()
        self.lag.start()

    async def stop(self) -> None:
        """Refuse what is new, let running answers end within `drain_s`, then end the workers."""
        self.dispatcher.draining = True
        self.services.events.stop()
        self.services.webrtc.stop()
        self.services.clients.stop()
        self.services.library.jobs.leave()
        deadline = monotonic() + self.settings.drain_s
        while (
            (self.dispatcher.active or self.native.busy)
            and monotonic() < deadline
            and not self.hurry
        ):
            await asyncio.sleep(0.02)
        if self.dispatcher.active:
            log.warning("cut_off", answers=self.dispatcher.active)
        await self.native.stop()
        await self.peers.stop()
        await self.services.pulls.stop()
        await self.services.enrichment.stop()
        await self.services.library.stop()
        await self.services.keeper.stop()
        await self.supervisor.stop()
        await self.clients.stop()
        await self.database.close()
        await self.lag.stop()
        if self._traces:
            await self._traces.stop()


def replays_of(settings: Settings) -> Replays:
    return Replays(
        keep_s=settings.resume_ttl_s,
        detached_keep_s=settings.detached_ttl_s,
        room=settings.replay_bytes,
        total=16 * settings.replay_bytes,
    )


def catalog_of(
    settings: Settings, files: Iterable[Path] = (), extra: Iterable[Model] = ()
) -> Catalog:
    """What is on the disk where these settings look, and `files` and records beside it."""
    return Catalog(
        settings.models_path,
        GUIDE,
        files,
        extra,
        embedder=EMBED,
        added=settings.model_paths,
        hub_cache=settings.hub_cache or hub_cache(),
        kept=settings.data_dir / "catalogue.msgpack",
    )


def _note_pull(journal: Journal, job: Job) -> None:
    journal.note("pull", job.id, Pull.of(job), passing=job.state == "downloading")
    if job.state == "done":
        journal.note("model", job.model, ModelChange(model=job.model, state="added"))


def build_services(
    settings: Settings,
    catalog: Catalog,
    supervisor: Supervisor,
    journal: Journal,
    saved: SavedSettings,
    records: Records,
    replays: Replays,
    clients: Clients,
) -> Services:
    """One of each service. Does no I/O, so the table can be had without an engine."""
    meters = Meters()
    models = Models(
        catalog,
        supervisor,
        lambda: preferences.selected(),
        {"embedding": settings.embedding_model, "rerank": settings.rerank_model},
    )
    preferences = Preferences(
        saved, settings, journal, find=models.find, differs=supervisor.differs
    )
    supervisor.prefer = preferences.load_wish
    supervisor.room.siblings = catalog.siblings
    read = partial(probe, this_machine())
    generation = Generations(supervisor, settings, preferences.fill, meters)
    token = HubToken(settings.data_dir / "hf_token")
    pooling = PoolingRequests(supervisor, settings, meters)
    embedder = Embedder(models.resolve_for, pooling.ask)
    generator = Generator(models.resolve, generation.run, models.adapter, settings.raw_grammar)
    text = TextTools(models.resolve, supervisor.using, models.context_length)
    rerank = Rerank(models.resolve_for, pooling.ask)
    library = Library(
        settings, records, journal, embedder, resolve=embedder.model, busy=generation.busy
    )
    changes = Changes(journal)
    labels = Labels(models.resolve_for, pooling.ask)
    meaning = Meaning(
        records,
        saved,
        library.vectors,
        library.embedder,
        embedder.model,
        on=settings.memory_vectors,
    )
    enrichment = Enrichment(
        settings,
        records,
        meaning,
        generator,
        changes,
        library.embedder,
        mark=labels.mark,
        context_length=models.context_length,
    )
    library.on_document = enrichment.document
    keeper = Keeper(
        records,
        settings,
        measure=text.measure,
        context_length=models.context_length,
        changes=changes,
    )
    return Services(
        chat=Chat(generator, keeper),
        completions=Completions(generator),
        responses=Responses(
            generator,
            keeper,
            Shelf(records, settings.kept_responses, settings.kept_responses_bytes),
        ),
        documents=Documents(library),
        rag=Rag(
            library,
            generator,
            keeper,
            reranker=rerank.scorer,
            measure=text.measure,
            context_length=models.context_length,
        ),
        library=library,
        enrichment=enrichment,
        related=Related(records, Links(records, library.index, meaning)),
        sessions=Sessions(records, changes, meaning.find),
        keeper=keeper,
        embeddings=Embeddings(embedder, models.with_state),
        labels=labels,
        likeness=Likeness(embedder),
        rerank=rerank,
        generation=generation,
        models=models,
        pulls=Pulls(
            Jobs(
                settings.data_dir / "pulls",
                settings.models_path,
                settings.hub,
                token.value,
                tell=partial(_note_pull, journal),
            ),
            token,
            settings.hub,
            offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
            find=models.resolve,
            fits=lambda size: supervisor.room.fits(size).fits != "no",
            loaded=lambda model_id: supervisor.get(model_id) is not None,
            forget=preferences.forget,
            journal=journal,
        ),
        resources=Resources(models.resolve, catalog.siblings, supervisor, settings),
        hardware=Hardware(read, supervisor.room.judge),
        events=Events(journal),
        clients=clients,
        stats=Stats(meters, supervisor),
        preferences=preferences,
        resume=Resume(replays),
        registered=Registered(models.with_state, preferences.configured),
        text=text,
        system=System(supervisor, read, records.database.usable),
        webrtc=Webrtc(records),
    )


def api_description() -> dict[str, object]:
    """The OpenAPI document, without starting anything."""
    return document(operations(_unstarted(Settings.model_construct())))


def message_schema() -> dict[str, object]:
    """The JSON Schema of messages, without starting anything."""
    return messages(operations(_unstarted(Settings.model_construct())))


async def offline_models(settings: Settings) -> list[ModelInfo]:
    """What a server with these settings would list."""
    call = Call("", Access.USER, "local", "none")
    saved = SavedSettings(database_of(settings))
    saved.read()
    return (await _unstarted(settings, saved).models.list(ModelsRequest(fits=True), call)).data


async def offline_hardware(settings: Settings) -> tuple[HardwareInfo, RecipeList]:
    """What a server with these settings would say of this machine."""
    call, hardware = Call("", Access.USER, "local", "none"), _unstarted(settings).hardware
    return await hardware.info(NoParameters(), call), await hardware.recipes(NoParameters(), call)


async def offline_recommendations(
    settings: Settings, request: RecommendationsRequest
) -> RecommendedModels:
    """What a server with these settings, and no model loaded, would recommend."""
    call = Call("", Access.USER, "local", "none")
    return await _unstarted(settings).hardware.recommend(request, call)


async def offline_clients(settings: Settings, route: str, payload: dict[str, Any]) -> Reply:
    """What a server with these settings would answer of its clients. Raises DatabaseUnusable."""
    database = database_of(settings)
    await asyncio.to_thread(database.check)
    store = ClientStore(database)
    await asyncio.to_thread(store.read)
    services = _unstarted(settings, clients=unstarted_clients(store))
    try:
        call = Call("", Access.ADMIN, OWNER, "none")
        reply = await Dispatcher(operations(services)).call(route, payload, call)
        assert isinstance(reply, Reply), "these do not stream"
        return reply
    finally:
        await database.close()


def database_of(settings: Settings) -> Database:
    return Database(place_of(settings.database_url, settings.data_dir / DATABASE))


def _unstarted(
    settings: Settings, saved: SavedSettings | None = None, clients: Clients | None = None
) -> Services:
    database = database_of(settings)
    return build_services(
        settings,
        catalog_of(settings),
        Supervisor(settings),
        Journal(),
        saved or SavedSettings(database),
        Records(database, settings.data_dir),
        replays_of(settings),
        clients or unstarted_clients(ClientStore(database)),
    )


def unstarted_clients(store: ClientStore) -> Clients:
    return Clients(store, Presence(), Journal(), url=lambda: None, transports=list)
