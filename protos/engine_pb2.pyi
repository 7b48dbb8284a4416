from hybrid_llm.protos import hybrid_pb2 as _hybrid_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineRequest(_message.Message):
    __slots__ = ("request_id", "prompt_ids", "max_tokens", "sampling", "eos_ids", "expires_in", "output_schema", "salt", "client", "weight", "answer_prefix", "grammar", "grammar_prefix", "logprobs", "answered", "adapter", "partial_tokens", "tokenizer")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_PREFIX_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_PREFIX_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    sampling: _hybrid_pb2.Sampling
    eos_ids: _containers.RepeatedScalarFieldContainer[int]
    expires_in: float
    output_schema: str
    salt: str
    client: str
    weight: float
    answer_prefix: str
    grammar: str
    grammar_prefix: _containers.RepeatedCompositeFieldContainer[GrammarPart]
    logprobs: int
    answered: int
    adapter: str
    partial_tokens: int
    tokenizer: str
    def __init__(self, request_id: _Optional[str] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., sampling: _Optional[_Union[_hybrid_pb2.Sampling, _Mapping]] = ..., eos_ids: _Optional[_Iterable[int]] = ..., expires_in: _Optional[float] = ..., output_schema: _Optional[str] = ..., salt: _Optional[str] = ..., client: _Optional[str] = ..., weight: _Optional[float] = ..., answer_prefix: _Optional[str] = ..., grammar: _Optional[str] = ..., grammar_prefix: _Optional[_Iterable[_Union[GrammarPart, _Mapping]]] = ..., logprobs: _Optional[int] = ..., answered: _Optional[int] = ..., adapter: _Optional[str] = ..., partial_tokens: _Optional[int] = ..., tokenizer: _Optional[str] = ...) -> None: ...

class GrammarPart(_message.Message):
    __slots__ = ("text", "token_id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_id: int
    def __init__(self, text: _Optional[str] = ..., token_id: _Optional[int] = ...) -> None: ...

class EngineOutput(_message.Message):
    __slots__ = ("token_ids", "scores", "finish_reason", "queue_ms", "cached_tokens", "error", "lost", "state")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    scores: _containers.RepeatedCompositeFieldContainer[Scores]
    finish_reason: str
    queue_ms: float
    cached_tokens: int
    error: Fault
    lost: bool
    state: ReplicaState
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., scores: _Optional[_Iterable[_Union[Scores, _Mapping]]] = ..., finish_reason: _Optional[str] = ..., queue_ms: _Optional[float] = ..., cached_tokens: _Optional[int] = ..., error: _Optional[_Union[Fault, _Mapping]] = ..., lost: bool = ..., state: _Optional[_Union[ReplicaState, _Mapping]] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("logprob", "top_ids", "top_logprobs")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, logprob: _Optional[float] = ..., top_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplicaState(_message.Message):
    __slots__ = ("replica", "ready", "load", "info", "tokenizer")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    replica: str
    ready: bool
    load: EngineLoad
    info: EngineInfo
    tokenizer: str
    def __init__(self, replica: _Optional[str] = ..., ready: bool = ..., load: _Optional[_Union[EngineLoad, _Mapping]] = ..., info: _Optional[_Union[EngineInfo, _Mapping]] = ..., tokenizer: _Optional[str] = ...) -> None: ...

class EngineLoad(_message.Message):
    __slots__ = ("active", "waiting", "slots", "kv_tokens_used", "kv_tokens_total", "running_adapters", "waiting_adapters")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RUNNING_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    WAITING_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    active: int
    waiting: int
    slots: int
    kv_tokens_used: int
    kv_tokens_total: int
    running_adapters: _containers.RepeatedScalarFieldContainer[str]
    waiting_adapters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, active: _Optional[int] = ..., waiting: _Optional[int] = ..., slots: _Optional[int] = ..., kv_tokens_used: _Optional[int] = ..., kv_tokens_total: _Optional[int] = ..., running_adapters: _Optional[_Iterable[str]] = ..., waiting_adapters: _Optional[_Iterable[str]] = ...) -> None: ...

class EngineInfo(_message.Message):
    __slots__ = ("engine", "model", "architecture", "vocab_size", "context_window", "slots", "device", "dtype", "output_schema", "logprobs", "adapters", "penalties", "kv_tokens")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_WINDOW_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    PENALTIES_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    engine: str
    model: str
    architecture: str
    vocab_size: int
    context_window: int
    slots: int
    device: str
    dtype: str
    output_schema: bool
    logprobs: bool
    adapters: _containers.RepeatedScalarFieldContainer[str]
    penalties: bool
    kv_tokens: int
    def __init__(self, engine: _Optional[str] = ..., model: _Optional[str] = ..., architecture: _Optional[str] = ..., vocab_size: _Optional[int] = ..., context_window: _Optional[int] = ..., slots: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., output_schema: bool = ..., logprobs: bool = ..., adapters: _Optional[_Iterable[str]] = ..., penalties: bool = ..., kv_tokens: _Optional[int] = ...) -> None: ...
