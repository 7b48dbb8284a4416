"""The parts of a client, put together: from what an app made, or from a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, TypeVar

from hybrid_llm.core.limits import Defaults, RequestLimits, SessionLimits
from hybrid_llm.core.protocols import Backend, Guardrail
from hybrid_llm.policies import FixedPolicy, Policy, PolicySource
from hybrid_llm.policies.reader.plain import ConfigSource
from hybrid_llm.router.caching.answers import AnswerCache
from hybrid_llm.router.caching.guarded import GuardedCache
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.guardrails.rules import GuardrailRule, Guardrails
from hybrid_llm.router.observability.hooks import Hook
from hybrid_llm.router.observability.log import RequestLog
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.privacy.sessions import Sessions
from hybrid_llm.router.signals import Sensors, SystemSensors
from hybrid_llm.router.signals.store import PredictionStore
from hybrid_llm.router.spending.charge import Spending
from hybrid_llm.router.spending.ledger import Ledger, Price

if TYPE_CHECKING:
    from hybrid_llm.router.config import Config
    from hybrid_llm.router.config.quality import Qualities

P = TypeVar("P", bound="Closable | None")


class Closable(Protocol):
    """What a client holds and closes."""

    def close(self) -> object:
        """Release everything."""
        ...


def assemble(
    backends: Sequence[Backend],
    policy: Policy | PolicySource,
    *,
    sensors: Sensors | None = None,
    detectors: Iterable[Detector] | None = (),
    hooks: Sequence[Hook] | None = (),
    defaults: Defaults | None = None,
    prices: Mapping[str, float | Price] | None = None,
    ledger: Ledger | None = None,
    predictions: PredictionStore | None = None,
    cache: AnswerCache | None = None,
    guardrails: Iterable[Guardrail | GuardrailRule] | None = (),
    sessions: SessionLimits | None = None,
    limits: RequestLimits | None = None,
    qualities: Qualities | None = None,
) -> Pipeline:
    """The pipeline of a client; the arguments and errors are those of `HybridLLM`."""
    policies = FixedPolicy(policy) if isinstance(policy, Policy) else policy
    kept = sessions or SessionLimits()
    guard = PrivacyGuard(detectors or (), sessions=Sessions(capacity=kept.capacity, idle_s=kept.idle_s))
    fleet = Fleet(
        backends,
        policies.current,
        sensors=sensors or SystemSensors(),
        spending=Spending(prices or {}, ledger),
        predictions=predictions,
        qualities=qualities,
    )
    return Pipeline(
        fleet,
        policies,
        guard,
        hooks=(RequestLog(), *(hooks or ())),
        defaults=defaults,
        limits=limits,
        cache=GuardedCache(cache, guard, fleet) if cache is not None else None,
        guardrails=Guardrails(rules) if (rules := tuple(guardrails or ())) else None,
    )


def assemble_from_config(
    source: ConfigSource | Config,
    *,
    sensors: Sensors | None = None,
    detectors: Sequence[Detector] = (),
    hooks: Sequence[Hook] = (),
    serve_metrics: bool = True,
) -> Pipeline:
    """The pipeline of the client that *source* describes; the errors are those of `from_config`."""
    from hybrid_llm.router.config import Config, read_config
    from hybrid_llm.router.config.quality import open_qualities
    from hybrid_llm.router.signals.calibrate import calibrate_missing

    config = source if isinstance(source, Config) else read_config(source)
    with ExitStack() as opened:
        policy = _closed_by(opened, config.open_policy(frozenset(detector.name for detector in detectors)))
        own, models = config.open_hooks(opened, serve_metrics=serve_metrics), config.open_detectors()
        ledger = _closed_by(opened, config.open_ledger())
        cache = _closed_by(opened, config.cache.open() if config.cache is not None else None)
        backends = [_closed_by(opened, backend) for backend in config.open_backends()]
        predictions = config.open_predictions()
        if config.prediction.calibrate:
            calibrate_missing(backends, predictions, policy.current, config.eager, (*models, *detectors))
        pipeline = assemble(
            backends,
            policy,
            sensors=sensors,
            detectors=(*models, *detectors),
            hooks=(*hooks, *own),
            defaults=config.defaults,
            prices=config.prices,
            ledger=ledger,
            predictions=predictions,
            guardrails=config.open_guardrails(),
            cache=cache,
            sessions=config.sessions,
            limits=config.limits,
            qualities=open_qualities(config.quality, config.backends),
        )
        opened.pop_all()
    return pipeline


def _closed_by(opened: ExitStack, part: P) -> P:
    """*part*, which *opened* closes if the client cannot be made."""
    if part is not None:
        opened.callback(part.close)
    return part
