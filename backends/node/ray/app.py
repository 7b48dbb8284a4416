"""The application of Ray Serve whose replicas hold our engine: `import_path: hybrid_llm.backends.node.ray.app:build`.

Ray needs, in the environment of every machine before it starts, RAY_SERVE_ENABLE_HA_PROXY=1 (Serve's own proxy loses
cancellations and most of the speed) and RAY_USAGE_STATS_ENABLED=0; `build` refuses to go on otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.ray.messages import tokenizer_digest
from hybrid_llm.backends.node.ray.replica import ReplicaService
from hybrid_llm.backends.node.supervisor import EngineProcess
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.protos import engine_pb2 as pb

_log = logging.getLogger(__name__)
SERVICER: Final = "hybrid_llm.protos.engine_pb2_grpc.add_ReplicaServicer_to_server"
"""What `grpc_options.grpc_servicer_functions` of Serve's configuration must name."""
ENVIRONMENT: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What the environment of every process of Ray must have."""
_NOT_HERE: Final = frozenset({"limits", "replicas", "python", "options"})
_LOOK_S: Final = 0.1
_SPARE: Final = 32
"""Calls beyond those that the engine takes: questions, and requests that it rejects as overloaded."""


def build(args: Mapping[str, Any]) -> Any:
    """Return the Serve application; *args* are options of the engine, `model` (a folder on every machine) among them.

    How many replicas there are, and what each takes of its machine, is set by `deployments` of Serve's configuration,
    under the name `engine`.

    Raises:
        ConfigError: an option is unknown or unusable, Ray is not installed, or its environment is not as it must be.
    """
    try:
        from ray import serve
    except ImportError:
        raise ConfigError(f"replicas need Ray Serve: {install_hint('ray')}") from None
    _check_environment()
    config = engine_config(args)
    deployment = serve.deployment(
        Replica,
        name="engine",
        max_ongoing_requests=config.max_slots + config.max_waiting + _SPARE,
        max_queued_requests=_SPARE,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=300.0,
    )
    return deployment.bind(dict(args))


def engine_config(args: Mapping[str, Any]) -> EngineConfig:
    """The engine of each replica.

    Raises:
        ConfigError: an option is missing, unknown or unusable.
    """
    known = {each.name for each in fields(EngineConfig)} - _NOT_HERE
    if unknown := sorted(set(args) - known):
        raise ConfigError(f"args: `{unknown[0]}` is no option of the engine; known: {', '.join(sorted(known))}")
    if not isinstance(model := args.get("model"), str) or not model:
        raise ConfigError("args: `model` is missing: the model's folder, under the same path on every machine")
    adapters = {name: Path(folder) for name, folder in dict(args.get("adapters", {})).items()}
    return EngineConfig(**{**args, "model": Path(model), "adapters": adapters, "trust": _trust(args.get("trust"))})


def _trust(given: Any) -> Trust | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not set(given) <= {"ca", "identity", "key"}:
        raise ConfigError("args: `trust` has `ca` and `identity`, or `key`: who must have signed the model")
    paths = {name: Path(given[name]) for name in ("ca", "key") if name in given}
    return Trust(**paths, identity=given.get("identity"))


def _check_environment() -> None:
    for name, value in ENVIRONMENT.items():
        if os.environ.get(name) != value:
            raise ConfigError(f"set {name}={value} in the environment of every machine before `ray start`")


class Replica:
    """One replica: the engine in a process of its own, and the internal service that sends it tokens.

    When the engine crashes, the replica ends too: a balancer prefers the least busy, so one that fails at once would
    attract every request. Serve starts another.
    """

    async def __init__(self, args: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        _check_environment()
        config = engine_config(args)
        tokenizer = tokenizer_digest(config.model)
        self._watch: asyncio.Task[None] | None = None
        self._engine = EngineProcess(config, on_progress=lambda phase: _log.info("%s", phase))
        self._service = ReplicaService(self._engine, tokenizer=tokenizer)
        await self._engine.start()
        self._watch = asyncio.create_task(self._end_with_engine(), name="engine-watch")

    async def Generate(self, request: pb.EngineRequest) -> AsyncGenerator[pb.EngineOutput, None]:  # noqa: N802 - gRPC's spelling
        """Stream the outputs of one request."""
        async with aclosing(self._service.generate(request)) as outputs:
            async for output in outputs:
                yield output

    async def Describe(self, request: pb.DescribeRequest) -> pb.ReplicaState:  # noqa: ARG002, N802
        """Say what it runs and how busy it is."""
        return self._service.state()

    def check_health(self) -> None:
        """Raise while the engine cannot take a request; Serve asks."""
        if not self._engine.healthy:
            raise RuntimeError("the engine does not respond")

    async def __del__(self) -> None:  # Serve awaits it once the running requests have ended
        if self._watch is not None:
            self._watch.cancel()
        await self._engine.close()

    async def _end_with_engine(self) -> None:
        while self._engine.pid is not None:
            await asyncio.sleep(_LOOK_S)
        _log.error("the engine's process crashed; the replica ends, so that Serve starts another")
        os._exit(1)
