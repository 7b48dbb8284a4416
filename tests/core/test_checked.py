"""What a file refuses, a record made in Python refuses too."""

import math
from pathlib import Path

import pytest

from hybrid_llm.backends.edge.spec import EdgeConfig
from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import keys_of
from hybrid_llm.core.limits import Defaults
from hybrid_llm.policies.document import BreakerLimits, Resilience
from hybrid_llm.policies.language.schema import Objectives
from hybrid_llm.router.spending.ledger import Price

TLS = TLSFiles.from_dir("certs", "app")
NODE = {"target": "node.example:7443", "tls": TLS}


@pytest.mark.parametrize(
    ("record", "values"),
    [
        (EdgeConfig, {"max_concurrency": 2.7}),
        (EdgeConfig, {"max_concurrency": 0}),
        (EdgeConfig, {"max_concurrency": True}),
        (EdgeConfig, {"threads": -3}),
        (EdgeConfig, {"load": "later"}),
        (EdgeConfig, {"reuse_prefixes": "yes"}),
        (EdgeConfig, {"model": 3}),
        (EdgeConfig, {"energy_per_1k_tokens_j": math.nan}),
        (Defaults, {"deadline": 90_000.0}),
        (Defaults, {"deadline": 0.0005}),
        (Defaults, {"max_tokens": 0}),
        (Defaults, {"privacy": "pii"}),
        (Objectives, {"deadline_s": 90_000.0}),
        (Objectives, {"ttft_ms": 0.0}),
        (Resilience, {"retries": 11}),
        (Resilience, {"retry_budget": 2.0}),
        (Resilience, {"hedge_after": 0.0}),
        (BreakerLimits, {"open_s": -1.0}),
        (GrpcConfig, NODE | {"connect_timeout": math.inf}),
        (GrpcConfig, NODE | {"max_message_bytes": 0}),
        (EngineConfig, {"model": Path("m"), "max_slots": 1.5}),
        (EngineConfig, {"model": Path("m"), "dtype": "int3"}),
        (Price, {"output_per_1k": 0.0, "input_per_1k": -1.0}),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(record, values):
    wrong = list(values)[-1]
    with pytest.raises(ConfigError, match=f"{record.__name__}: {wrong}: "):
        record(**values)


@pytest.mark.parametrize("record", [EdgeConfig, Defaults, Objectives, Resilience, BreakerLimits])
def test_every_default_passes(record):
    made = record()
    for key in keys_of(record):
        record(**{key.attribute: getattr(made, key.attribute)})
