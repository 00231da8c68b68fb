"""Settings: read once, frozen, passed down.

A value comes from, in this order: a command-line flag, `TABAGENT_<NAME>` in the environment, the
TOML file (`TABAGENT_CONFIG`, else `config.toml` in the user's configuration directory), the default.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tabagent.wire import CacheType, FlashAttention, KvLayout

PREFIX = "TABAGENT_"
LEAST_OF_TOKEN, MOST_OF_TOKEN = 16, 1024


def _split(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _limit(value: Any) -> Any:
    """A number of bytes stays one; a share keeps its sign."""
    text = str(value).strip()
    if text.isdigit():
        return int(text)
    if re.fullmatch(r"\d{1,2}(\.\d+)?%|100%", text) and float(text[:-1]) > 0:
        return text
    raise ValueError("must be a number of bytes, or a share such as 60%")


def _hub(value: Any) -> Any:
    if not re.fullmatch(r"https?://[^@/\s]+(/\S*)?", str(value)):
        raise ValueError("must be an http or https address, without a name or password in it")
    return value


HubAddress = Annotated[str, BeforeValidator(_hub)]
MemoryLimit = Annotated[int | str, BeforeValidator(_limit)]
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Paths = Annotated[list[Path], NoDecode, BeforeValidator(_split)]


def config_file() -> Path:
    """Where the TOML file is looked for."""
    named = os.environ.get(PREFIX + "CONFIG")
    return Path(named) if named else platformdirs.user_config_path("tabagent") / "config.toml"


class ConfigError(Exception):
    """The settings cannot be used; the message names the setting, its source and what it wants."""


class Settings(BaseSettings):
    """Every setting of TabAgent."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    mode: Literal["both", "http", "native"] = Field(
        "both",
        description="What listens: HTTP, the socket of the browser's native host, or both.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("tabagent"),
        description="Everything TabAgent keeps; made with mode 0700; one server per directory.",
    )
    models_dir: Path | None = Field(
        None, description="Where models are looked for; `models` in the data directory when unset."
    )
    model_paths: Paths = Field(
        [], description="More directories and files with models, used where they are."
    )
    hub_cache: Path | None = Field(
        None,
        description="Hugging Face's cache, whose models are used where they are; as `HF_HUB_CACHE` "
        "and `HF_HOME` say when unset.",
    )
    hub_endpoint: HubAddress | None = Field(
        None,
        description="Where models are pulled from; `HF_ENDPOINT` when unset, else Hugging Face.",
    )
    model: str | None = Field(
        None, description="Model for requests that name none; the built-in guide when unset."
    )
    embedding_model: str | None = Field(
        None,
        description="Model for embeddings and search where a request names none; one that is there when unset, the built-in embedder last.",
    )
    rerank_model: str | None = Field(
        None,
        description="Model for rerank where a request names none; one that is there when unset.",
    )
    auth: Literal["auto", "always"] = Field(
        "auto",
        description="`auto`: local programs need no token for USER operations; beyond this machine and with `always` all do.",
    )
    token: str | None = Field(
        None,
        min_length=LEAST_OF_TOKEN,
        repr=False,
        description="The owner's token; made and kept in the data directory when unset.",
    )
    token_file: Path | None = Field(
        None,
        description="A file with the owner's token, as containers are given secrets; instead of the token itself.",
    )
    native_socket: Literal["auto", "unix", "tcp"] = Field(
        "auto",
        description="What the native host connects to: a Unix socket, or on Windows a loopback port with a token.",
    )
    allowed_hosts: CommaSeparated = Field(
        [], description="Host names accepted beside 127.0.0.1, localhost and [::1]."
    )
    allowed_origins: CommaSeparated = Field(
        [], description="Origins that may call, such as `chrome-extension://<id>`."
    )
    auto_load: bool = Field(True, description="Naming a model loads it.")
    slots: int = Field(8, ge=1, le=64, description="Sequences that a model decodes together.")
    n_ctx: int = Field(
        0,
        ge=0,
        description="Context of one sequence in tokens; 0 is the model's own, at most 8192.",
    )
    device: str = Field(
        "auto",
        description="Where models run: `auto`, `cpu`, `gpu`, a kind (`cuda`, `rocm`, `vulkan`, `metal`, `sycl`) or one device (`cuda:1`).",
    )
    threads: int = Field(0, ge=0, le=512, description="Threads per model; 0 is one per core.")
    threads_batch: int = Field(
        0, ge=0, le=512, description="Threads for prompts; 0 is as many as for answers."
    )
    flash_attention: FlashAttention = Field(
        "auto", description="`auto` lets llama.cpp decide; values are quantised only with it."
    )
    cache_type_k: CacheType = Field("f16", description="How keys are kept in the KV cache.")
    cache_type_v: CacheType = Field("f16", description="How values are kept in the KV cache.")
    kv_layout: KvLayout = Field(
        "auto",
        description="`shared`: one KV cache for all sequences of a model; `separate`: a part for each, which is faster; `auto`: parts where there is room.",
    )
    prompt_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="Memory for computed prompts that no sequence holds, for each model; unset: as much as its KV cache, at most a sixteenth of what is free.",
    )
    mmap: bool = Field(True, description="Map model files into memory instead of reading them.")
    mlock: bool = Field(False, description="Keep models from being swapped out.")
    speculation: Literal["off", "ngram"] = Field(
        "off",
        description="`ngram` guesses that what followed a few words before follows them again; pays where much is quoted.",
    )
    keep_state: bool = Field(
        False, description="Keep computed prompts on disk when a model is unloaded."
    )
    graph_cache_bytes: int = Field(
        2**30, ge=0, description="Disk for optimised ONNX graphs, which load faster; 0 keeps none."
    )
    keep_state_bytes: int = Field(
        4 * 2**30, ge=0, description="Most disk they may take, of all models together."
    )
    queue_size: int = Field(64, ge=1, description="Requests that may wait for one model.")
    queue_wait_s: float = Field(60, gt=0, description="Seconds a request may wait for its turn.")
    generation_s: float = Field(600, gt=0, description="Seconds one generation may take.")
    stall_s: float = Field(
        60, gt=0, description="Seconds without a token until a worker is killed."
    )
    kept_responses: int = Field(
        1000, ge=0, description="Responses kept for `previous_response_id`, for each caller."
    )
    kept_responses_bytes: int = Field(
        256 * 2**20, ge=0, description="Most bytes of what is new in each, for each caller."
    )
    database_url: str | None = Field(
        None,
        repr=False,
        description="Where sessions, documents and settings are kept: `postgresql://...`, or the path of a SQLite file; `tabagent.db` in the data directory when unset.",
    )
    index_uri: str | None = Field(
        None,
        description="Where the search index lies: a folder, or an object store such as `s3://bucket/place`; `index` in the data directory when unset. It can be made anew from the database.",
    )
    index_options: dict[str, str] = Field(
        {},
        repr=False,
        description="What the object store wants to be told, such as `aws_endpoint`; as JSON in the environment.",
    )
    memory_vectors: bool = Field(
        True, description="Embed messages in the background, so that search finds what they mean."
    )
    memory_titles: bool = Field(
        True, description="Have the chat model give sessions a title, in the background."
    )
    memory_summaries: bool = Field(
        True, description="Keep a summary of long sessions, in the background."
    )
    memory_entities: bool = Field(
        True, description="Note what messages and documents name, where there is a model for it."
    )
    raw_grammar: bool = Field(
        False, description="Whether requests may bring a GBNF grammar of their own."
    )
    memory_limit: MemoryLimit = Field(
        0,
        description="Bytes that all loaded models may take together, or a share of this machine's memory (`60%`); 0 is what is free when one is loaded.",
    )
    sleep_s: float = Field(
        60,
        ge=-1,
        description="Seconds until an unused model gives its KV cache back, and keeps its weights; -1 is never.",
    )
    keep_alive_s: float = Field(
        300, ge=-1, description="Seconds an unused model stays loaded; -1 is for ever."
    )
    load_s: float = Field(600, gt=0, description="Seconds a model may take to load.")
    worker_beat_s: float = Field(
        2, gt=0, description="Seconds between a worker's heartbeats; three missed end it."
    )
    worker_restarts: int = Field(5, ge=0, description="Crashes forgiven in 300 seconds.")
    body_limit: int = Field(8 * 2**20, ge=1024, description="Largest JSON body in bytes.")
    upload_limit: int = Field(
        64 * 2**20, ge=1024, description="Largest document in bytes that is sent at once."
    )
    head_s: float = Field(
        10, gt=0, description="Seconds that the head of a request may take to arrive."
    )
    connections: int = Field(2048, ge=1, description="Connections over HTTP at once.")
    peer_connections: int = Field(
        64, ge=1, description="The same from one address, when listening beyond this machine."
    )
    body_s: float = Field(
        60, gt=0, description="Seconds a body may take to arrive, and one more per 64 KiB of it."
    )
    write_stall_s: float = Field(30, gt=0, description="Seconds a client may not read its stream.")
    heartbeat_s: float = Field(
        10, gt=0, description="Seconds of silence before a stream's comment."
    )
    resume_ttl_s: float = Field(
        60,
        ge=0,
        description="Seconds that an answer whose client was lost on a message channel goes on, and that an ended one can still be followed.",
    )
    detached_ttl_s: float = Field(
        600,
        ge=0,
        description="Seconds that an ended answer is kept which was asked for with `detach`.",
    )
    replay_bytes: int = Field(
        4 * 2**20, ge=2**16, description="Most bytes of one answer's events that are kept."
    )
    drain_s: float = Field(20, ge=0, description="Seconds running answers get on shutdown.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")
    access_log: bool | None = Field(
        None,
        description="Whether every request is a line of the log; when unset, with `json` it is.",
    )
    audit_file: Path | None = Field(
        None,
        description="Where ADMIN calls, pairings, approvals and revocations are noted, one JSON line each; among the log's lines when unset.",
    )

    otlp_endpoint: HubAddress | None = Field(
        None,
        description="An OpenTelemetry collector that gets a span of every request, such as `http://127.0.0.1:4318`; `OTEL_EXPORTER_OTLP_ENDPOINT` when unset, else none does. Needs `tabagent[otel]`.",
    )

    def largest_body(self, *, upload: bool) -> int:
        """Bytes of a request. Documents come in base64, four bytes for three, in JSON."""
        return self.upload_limit * 4 // 3 + self.body_limit if upload else self.body_limit

    @property
    def local_only(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name, which may lead anywhere

    @property
    def logs_access(self) -> bool:
        return self.log_format == "json" if self.access_log is None else self.access_log

    @property
    def hub(self) -> str:
        return self.hub_endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"

    @property
    def models_path(self) -> Path:
        return self.models_dir or self.data_dir / "models"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=config_file()),
        )


def load(**flags: Any) -> Settings:
    """The effective settings; flags that are None count as not given. Raises ConfigError."""
    if PREFIX + "CONFIG" in os.environ and not config_file().is_file():
        raise ConfigError(f"{PREFIX}CONFIG names no file: {config_file()}")
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        where = source_of(name, given)
        says = first["msg"].removeprefix("Value error, ")  # pydantic's, before words of our own
        raise ConfigError(f"{name} (from {where}): {says}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{config_file().name} is not valid TOML: {error}") from error
    unknown = [
        key
        for key in os.environ
        if key.startswith(PREFIX)
        and key[len(PREFIX) :].lower() not in Settings.model_fields
        and key != PREFIX + "CONFIG"
    ]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not a setting; `tabagent config` lists them all")
    if settings.token_file is not None:
        token = _token_of(settings, f"token_file (from {source_of('token_file', given)})")
        settings = settings.model_copy(update={"token": token})
    return settings


def _token_of(settings: Settings, who: str) -> str:
    """What `token_file` holds. Neither the token nor anything else of the file is ever repeated."""
    assert settings.token_file is not None
    if settings.token is not None:
        raise ConfigError(f"{who}: there is a token already; give one of the two")
    try:
        if not settings.token_file.is_file():  # a pipe would be waited for
            raise ConfigError(f"{who}: {settings.token_file} is no file")
        with settings.token_file.open(encoding="utf-8") as source:
            token = source.read(MOST_OF_TOKEN + 1).strip()
    except OSError as error:
        raise ConfigError(f"{who}: {settings.token_file}: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"{who}: {settings.token_file} is no text") from None
    if not LEAST_OF_TOKEN <= len(token) <= MOST_OF_TOKEN or len(token.split()) != 1:
        raise ConfigError(
            f"{who}: {settings.token_file} has to hold one word of {LEAST_OF_TOKEN} letters or more"
        )
    return token


def source_of(name: str, flags: dict[str, Any]) -> str:
    """Where the effective value of `name` came from, in words a person can act on."""
    if name in flags:
        return "flag --" + name.replace("_", "-")
    variable = PREFIX + name.upper()
    if any(key.upper() == variable for key in os.environ):
        return variable
    file = config_file()
    if file.is_file() and name in tomllib.loads(file.read_text()):
        return str(file)
    return "default"
