"""What gateway and worker say to each other: msgpack of these structs, one per frame.

The gateway sends commands, each with an `id` of its own choosing; the worker answers every command
with exactly one of Done, Failed or (for Generate) Finished, after any number of Pieces. Every choice
of a generation ends with a piece that has an `end`, except where the command fails.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

PROTOCOL: Final = 5
"""Raised when these structs change; the handshake compares it."""

FinishReason = Literal["stop", "length", "tool_calls"]
StopCause = Literal["eos", "stop", "length", "context", "halted"]
FlashAttention = Literal["auto", "on", "off"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
KvLayout = Literal["auto", "shared", "separate"]
"""One KV cache for all sequences, or a part for each; auto: parts, where each has room for all."""
Speculation = Literal["off", "ngram", "draft"]
Pooling = Literal["mean", "cls", "last", "max", "rank", "labels", "spans"]
"""What becomes of a text's tokens: a vector; a rank; labels of the whole; labels of each."""
Scale = Literal["sigmoid", "softmax", "raw"]
Truncate = Literal["error", "end", "split"]
RankMethod = Literal["auto", "cross-encoder", "similarity", "late-interaction"]


class _Message(msgspec.Struct, tag=True, omit_defaults=True):
    pass


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn. None leaves it to the model file, then to the engine.

    Names and meanings are llama.cpp's (tools/server/README.md there).
    """

    temperature: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_k: int | None = None  # 0: all
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None  # 0 or less: off
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None  # -1: the whole context
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None  # 0, 1 or 2
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None  # tokens that all three penalties look back on
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: list[tuple[int | str, float]] = []  # a token's id or its text; -inf bans it
    seed: int | None = None
    ignore_eos: bool = False


class Format(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the answer must look like. `pointer` is where the request says so, for errors."""

    kind: Literal["json_object", "json_schema", "gbnf"]
    pointer: str
    schema: Any = None  # of json_schema: an object, or true
    grammar: str = ""  # of gbnf


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None  # JSON schema; None takes no arguments
    strict: bool = False
    pointer: str = "/tools"  # where the request has its parameters, for errors


class Dialogue(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a conversation asks of the model beside its messages."""

    tools: list[Tool] = []
    tool_choice: Literal["none", "auto", "required"] = "auto"
    tool_name: str | None = None  # with "required": this one
    parallel_tool_calls: bool = True
    thinking: bool | None = None  # None leaves it to the template
    effort: str | None = None
    variables: dict[str, Any] = {}  # further template variables


class Speaking(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a model generates, as the files beside its weights say."""

    template: str | None = None  # of its chats
    bos: str = ""  # the tokens that begin and end a text, as the template knows them
    eos: str = ""
    end_tokens: list[int] = []
    sampling: dict[str, float] = {}  # what it recommends, by our names
    key_heads: int = 0  # of its keys and values, and the numbers in each; 0: the graph says it
    head_size: int = 0


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a model reads whole texts, as the files beside its weights say."""

    lowercase: bool = False
    prompts: dict[str, str] = {}  # what stands before a text, by name
    default_prompt: str | None = None  # the name of the one that stands there unasked
    pools_prompt: bool = True  # whether its tokens count in the vector
    labels: list[str] = []  # of the head's outputs, in their order
    scale: Scale = "softmax"  # what makes scores of these outputs
    after: list[str] = []  # layers that a vector goes through when it is pooled


# ---- gateway -> worker --------------------------------------------------------------------------
class Load(_Message):
    """Load the model at `path`. Answered by Done(facts about it)."""

    id: int
    path: str
    n_ctx: int  # context of one sequence in tokens
    slots: int  # sequences decoded together
    kv_tokens: int  # room of all sequences together
    threads: int
    queue_wait_s: float  # how long a request may wait for a slot
    threads_batch: int = 0  # for prompts; 0: as many as for decoding
    flash_attention: FlashAttention = "auto"
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    kv_layout: KvLayout = "auto"
    kept_bytes: int = 0  # for computed prompts outside the KV cache; with separate parts only
    mmap: bool = True
    mlock: bool = False
    speculation: Speculation = "off"
    draft_path: str | None = None  # the small model that guesses for this one
    draft_tokens: int = 0  # most tokens guessed at once
    state_path: str | None = None  # where computed prompts are kept over a reload
    pooling: Pooling | None = None  # of a model that reads whole texts; None: it generates
    reading: Reading | None = None  # of one whose own file does not say it
    speaking: Speaking | None = None  # the same of one that generates
    providers: list[str] = []  # ONNX Runtime's execution providers to try, the best first
    graph_path: str | None = None  # where optimised graphs are kept over a reload
    graph_bytes: int = 0  # how much of them
    n_gpu_layers: int = 0  # layers on graphics processors, the output layer first; 0: the CPU alone
    main_gpu: int | None = None  # the only one to use; None: as `tensor_split` says
    tensor_split: list[float] = []  # what part of those layers each gets


class Render(_Message):
    """Apply the chat template. Answered by Done({text, tokens})."""

    id: int
    messages: list[dict[str, Any]]
    dialogue: Dialogue = Dialogue()
    add_generation_prompt: bool = True


class Tokenize(_Message):
    """Answered by Done({tokens, pieces})."""

    id: int
    text: str
    add_special: bool = False
    parse_special: bool = False


class Detokenize(_Message):
    """Answered by Done({text})."""

    id: int
    tokens: list[int]


class Generate(_Message):
    """Continue `messages` (through the chat template), `text` or `tokens`.

    Answered by Pieces, then Finished.
    """

    id: int
    sampling: Sampling
    messages: list[dict[str, Any]] | None = None
    dialogue: Dialogue = Dialogue()
    text: str | None = None
    suffix: str | None = None  # of `text`: fill what is between
    tokens: list[int] | None = None
    max_tokens: int | None = None  # None: what the context leaves
    stop: list[str] = []
    n: int = 1
    format: Format | None = None
    thinking_budget: int | None = None  # most tokens of reasoning
    logprobs: int | None = None  # alternatives per token, 0 for its own alone
    echo: bool = False  # the prompt comes first, with its logprobs when they are asked for
    loras: list[tuple[str, float]] = []  # adapter file, scale


class Embed(_Message):
    """Vectors of texts. Answered by Done({vectors: float32 bytes of each, tokens: of each})."""

    id: int
    texts: list[str]
    truncate: Truncate = "error"  # what is too long is refused, cut, or the mean of its parts
    normalise: bool = True
    dimensions: int | None = None  # keep the first so many; None: all
    prompt: str | None = None  # the name of what stands before each; None: the model's default
    lenient: bool = False  # a name that the model has not is no error


class Rank(_Message):
    """How relevant each document is to the query. Answered by Done({scores, tokens, method}).

    A document that does not fit beside the query is read in windows, of which the best counts.
    """

    id: int
    query: str
    documents: list[str]
    truncate: bool = False  # read the first window alone
    method: RankMethod = "auto"


class Label(_Message):
    """What texts are. Answered by Done({scores: of each text for each label, tokens: of each}).

    Scores of a text that is too long are the mean of its windows' by their tokens.
    """

    id: int
    texts: list[str]
    truncate: Truncate = "error"


class Mark(_Message):
    """What is named in texts. Answered by Done({spans: of each text, tokens: of each}).

    A span is (label, score, first character, the one after its last). Long texts are read in
    windows.
    """

    id: int
    texts: list[str]


class Sleep(_Message):
    """Give the context's memory back until the next request. Answered by Done({asleep})."""

    id: int


class Cancel(_Message):
    """Stop command `id`. With `halt` it still answers Finished; without, nobody listens."""

    id: int
    halt: bool = False


class Shutdown(_Message):
    """Leave now; what still runs is dropped."""


# ---- worker -> gateway --------------------------------------------------------------------------
class Hello(_Message):
    pid: int
    protocol: int
    engine: str


class Beat(_Message):
    """Sent at a fixed pace, whatever the engine is doing."""

    resident_bytes: int
    mapped_bytes: int = 0  # of them: pages of files, which can be read again
    slots_used: int = 0
    waiting: int = 0
    steps: int = 0  # decode steps so far: no progress with slots in use is a stall


class Progress(_Message):
    """How far a load is, 0 to 1."""

    id: int
    fraction: float


class ToolDelta(msgspec.Struct, array_like=True):
    """A part of a tool call. `id` and `name` come once, with its first part."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class Chance(msgspec.Struct, array_like=True):
    """A token's natural logarithm of its probability, before sampling shapes it."""

    token: bytes
    logprob: float | None  # None: the first token of a text, which nothing predicts
    top: list[tuple[bytes, float]] = []  # the likeliest instead, in order


class Ending(msgspec.Struct, array_like=True):
    reason: FinishReason
    cause: StopCause


class Piece(msgspec.Struct, array_like=True):
    """What one choice of a generation gained."""

    id: int
    tokens: int  # generated so far
    text: str = ""
    index: int = 0
    reasoning: str = ""
    tools: list[ToolDelta] = []
    chances: list[Chance] = []
    end: Ending | None = None


class Pieces(_Message):
    """All that came of one decode step."""

    items: list[Piece]


class Usage(msgspec.Struct, omit_defaults=True):
    """Of a whole command: all its choices together, times of the longest."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # prompt tokens that had been computed before
    reasoning_tokens: int = 0
    drafted_tokens: int = 0  # guessed by speculation, and of those
    accepted_tokens: int = 0
    queued_ms: float = 0.0
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class Finished(_Message):
    id: int
    usage: Usage


class Note(_Message):
    """A line for the log, about command `id` where it is not 0. No text of anybody's is in it."""

    event: str
    level: Literal["debug", "warning", "error"]
    id: int = 0
    facts: dict[str, str | int | float] = {}


class Done(_Message):
    id: int
    result: dict[str, Any] = {}


class Failed(_Message):
    """`slug` and `members` rebuild the error on the other side."""

    id: int
    slug: str
    detail: str
    members: dict[str, Any] = {}


Pooled = Embed | Rank | Label | Mark
"""What is asked of a model that reads whole texts."""
Command = Load | Render | Tokenize | Detokenize | Generate | Pooled | Sleep | Cancel | Shutdown
Event = Hello | Beat | Progress | Note | Pieces | Finished | Done | Failed

encode: Final = msgspec.msgpack.Encoder().encode
decode_command: Final = msgspec.msgpack.Decoder(Command).decode
decode_event: Final = msgspec.msgpack.Decoder(Event).decode
