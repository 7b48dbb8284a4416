"""Flower's client app around a `Learner`, between two guards: one for what the server asks, one for what leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.federated.flower import open_flower
from hybrid_llm.prepare.federated.keys import CONFIGS, NONCE, RECORD, VOUCHER, Signer
from hybrid_llm.prepare.federated.learner import Learner
from hybrid_llm.prepare.federated.offer import Offer
from hybrid_llm.prepare.federated.vouching import SignedKeys

NUMBER: Final = "round"
"""The key of a task under which the number of the round stands."""
STAGE_KEYS: Final = {
    "setup": {"pk1", "pk2"},
    "share_keys": {"dsts", "ctxts"},
    "collect_masked_vectors": {"masked_params"},
    "unmask": {"nids", "shares"},
}
"""Stage of SecAgg+ -> all that a client sends in it."""


def client_app(offer: Offer, learner: Learner, *, least: int, signer: Signer | None = None) -> Callable[[Any], Any]:
    """A function from the server's message to the reply.

    Args:
        offer: what was offered.
        learner: makes the updates.
        least: with secure aggregation, clients among which an update must be hidden.
        signer: signs this client's keys of secure aggregation, and has the keys of all others checked. Without it, as
            in a simulation, the server is trusted to pass keys on as they are.

    Raises:
        ConfigError: Flower is missing. The function raises it for a task that breaks the rules of the offer, and
            UntrustedPeer where keys are not signed by those whose they should be.
    """
    open_flower()
    from flwr.app import Context, RecordDict
    from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
    from flwr.clientapp import ClientApp

    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    app = ClientApp()
    signed = [SignedKeys(offer, signer)] if signer is not None else []
    mods = [*signed, SecureRules(offer, least), secaggplus_mod] if offer.secure else []

    @app.train(mods=mods)  # type: ignore[untyped-decorator, unused-ignore]
    def train(message: Any, _: Any) -> Any:
        return _trained(message, learner)

    def answer(message: Any) -> Any:
        reply = app(message, context)
        check_outgoing(reply, offer)
        return reply

    return answer


def _trained(message: Any, learner: Learner) -> Any:
    import flwr.compat.common.recorddict_compat as records
    from flwr.app import Message
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays

    task = records.recorddict_to_fitins(message.content, keep_input=True)
    update = learner.learn(int(task.config[NUMBER]), parameters_to_ndarrays(task.parameters))
    # Every client counts the same: the number of its records is nobody's business.
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(update), 1, {})
    return Message(records.fitres_to_recorddict(result, keep_input=False), reply_to=message)


class SecureRules:
    """A mod that refuses what would let a server, against the protocol, read a single update."""

    def __init__(self, offer: Offer, least: int) -> None:
        self._offer, self._least = offer, least

    def __call__(self, message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Check *message*, and pass it on. ConfigError if it breaks a rule."""
        values = message.content.config_records.get(CONFIGS, {})
        stage = values.get("stage")
        if stage not in STAGE_KEYS:
            raise ConfigError("the server asks without secure aggregation, against its offer: leaving")
        if stage == "setup":
            among, threshold = int(values["sample_num"]), int(values["threshold"])
            if among < self._least or 2 * threshold <= among or int(values["share_num"]) != among:
                message_text = (
                    f"the server would hide the update among {among}, with a threshold of {threshold}: leaving"
                )
                raise ConfigError(message_text)
        if stage == "unmask" and set(values["active_nids"]) & set(values["dead_nids"]):
            raise ConfigError("the server asks for both secrets of one client, which reveals its update: leaving")
        return call_next(message, context)


def check_outgoing(reply: Any, offer: Offer) -> None:
    """Refuse to send anything but the update of *offer*, plain or masked, and what SecAgg+ needs.

    Raises:
        ConfigError: *reply* has more.
    """
    content = reply.content
    extra = content.config_records.get("fitres.metrics", {})
    stages = content.config_records.get(CONFIGS, {})
    known = {CONFIGS, "fitres.metrics", "fitres.status"}
    added = set(content.config_records.get(RECORD, {}))
    if offer.secure and added == {NONCE} and set(content) == {RECORD}:
        return
    if added == {VOUCHER} and set(stages) == STAGE_KEYS["setup"]:
        known.add(RECORD)
    right = not extra and set(content.config_records) <= known and set(content.array_records) <= {"fitres.parameters"}
    right = right and all(set(each.values()) == {1} for each in content.metric_records.values())
    if offer.secure:
        right = right and set(stages) in STAGE_KEYS.values() and not any(content.array_records.values())
        arrays = _masked(stages.get("masked_params", []), offer)
    else:
        right = right and not stages
        arrays = [each for record in content.array_records.values() for each in _plain(record)]
    if not right:
        raise ConfigError("a reply had more than the update in it, and was not sent")
    if arrays:
        offer.check(arrays)


def _plain(record: Any) -> list[Any]:
    from flwr.common import bytes_to_ndarray

    return [bytes_to_ndarray(each.data) for each in record.values()]


def _masked(given: list[bytes], offer: Offer) -> list[Any]:
    from flwr.common import bytes_to_ndarray

    arrays = [bytes_to_ndarray(each) for each in given]
    if arrays and (arrays[0].shape != (1,) or len(arrays) != len(offer.tensors) + 1):
        raise ConfigError("a reply had more than the update in it, and was not sent")
    return arrays[1:]
