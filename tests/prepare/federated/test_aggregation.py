"""Secure aggregation: the sum is right, one update is unreadable, drop-outs are survived, rule breakers get nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.errors import ConfigError, UntrustedPeer
from hybrid_llm.prepare.federated.app import STAGE_KEYS, SecureRules, check_outgoing, client_app
from hybrid_llm.prepare.federated.flower import masks, open_flower
from hybrid_llm.prepare.federated.keys import CONFIGS, RECORD, Agreement, Signer, node_of
from hybrid_llm.prepare.federated.learner import clipped
from hybrid_llm.prepare.federated.offer import Arrays, Offer
from hybrid_llm.prepare.federated.roster import InProcess
from hybrid_llm.prepare.federated.rounds import Mean, moved, round_of
from hybrid_llm.prepare.federated.vouching import VouchedGrid
from hybrid_llm.prepare.privacy.noise import Draws

pytest.importorskip("flwr", reason="Flower is installed by `make federated`, apart from the other tests")

SHAPES = (("layer.lora_A", (40, 25)), ("head", (3,)))
OFFER = Offer(
    base="",
    labels=(),
    tensors=SHAPES,
    rounds=2,
    epochs=1,
    batch=1,
    learning_rate=0.1,
    max_length=8,
    lora_rank=1,
    lora_targets=(),
    secure=True,
    threshold=2,
    update_norm=0.0,
)
NAMES = ("a", "b", "c", "d")
WEIGHTS: Arrays = [np.zeros(shape, dtype=np.float32) for _, shape in SHAPES]


class Constant:
    """A learner whose update is one number everywhere."""

    def __init__(self, value: float) -> None:
        self._value = value

    def learn(self, number: int, weights: Arrays) -> Arrays:
        return [np.full(each.shape, self._value * number, dtype=np.float32) for each in weights]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of one authority, and under `other` those of another with the same names."""
    root = tmp_path_factory.mktemp("tls")
    for folder in (root, root / "other"):
        make_authority(folder)
        issue(folder, "server", kind="node", hosts=["127.0.0.1"])
        for name in NAMES:
            issue(folder, name)
    return root


def signing(tls: Path, names: Sequence[str] = NAMES[:3]) -> dict[int, Callable[[Any], Any]]:
    signers = [Signer.open(TLSFiles.from_dir(tls, name)) for name in names]
    return {
        each.node: client_app(OFFER, Constant(0.1 * number), least=3, signer=each)  # type: ignore[arg-type]
        for number, each in enumerate(signers)
    }


class Recorded(InProcess):
    """A grid that keeps the replies, and in which some clients die at a stage."""

    def __init__(self, apps: dict[int, Callable[[Any], Any]], dies: dict[int, str] | None = None) -> None:
        super().__init__(apps)
        self.replies: list[Any] = []
        self._dies = dies or {}

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        alive = [each for each in messages if self._stage(each) != self._dies.get(each.metadata.dst_node_id, "never")]
        found = super().send_and_receive(alive, timeout=timeout)
        self.replies += found
        return found

    @staticmethod
    def _stage(message: Any) -> str:
        return str(message.content.config_records.get("secaggplus_configs", {}).get("stage", ""))

    def masked(self) -> list[Any]:
        from flwr.common import bytes_to_ndarray

        vectors = [each.content.config_records["secaggplus_configs"].get("masked_params") for each in self.replies]
        return [bytes_to_ndarray(each[1]) for each in vectors if each]


def stage_of(reply: Any) -> str:
    """The stage that *reply* belongs to, by what it has."""
    names = set(reply.content.config_records.get(CONFIGS, {}))
    return next((stage for stage, keys in STAGE_KEYS.items() if keys == names), "")


def apps(count: int, offer: Offer = OFFER) -> dict[int, Callable[[Any], Any]]:
    return {10 + number: client_app(offer, Constant(0.1 * number), least=3) for number in range(count)}  # type: ignore[arg-type]


class Forging(Recorded):
    """A server that hands out other keys in place of those of client b, *how* it can."""

    def __init__(self, tls: Path, how: str) -> None:
        super().__init__(signing(tls))
        from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

        self._tls, self._how, self._digest = tls, how, b""
        self._own = [public_key_to_bytes(generate_key_pairs()[1]) for _ in range(2)]
        self._earlier: tuple[Any, Any] | None = None

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        asked = list(messages)
        for each in asked:
            records = each.content.config_records
            match self._stage(each):
                case "setup":
                    self._change_setup(records)
                case "share_keys" if each.metadata.dst_node_id != node_of("b"):
                    self._change_keys(records[CONFIGS], records[RECORD], str(node_of("b")))
        return super().send_and_receive(asked, timeout=timeout)

    def _change_setup(self, records: Any) -> None:
        if self._how == "setup":
            records.pop(RECORD, None)
        elif self._how == "nonce":
            records[RECORD]["nonces"] = [bytes(32)] * 3
        elif self._how == "text":
            records[RECORD]["nonces"] = ["a text"] * 3
        else:
            message = SimpleNamespace(content=SimpleNamespace(config_records=records))
            self._digest = Agreement.read(OFFER, message).digest

    def _change_keys(self, keys: Any, vouchers: Any, victim: str) -> None:
        if self._how == "replayed":
            self._earlier, now = (list(keys[victim]), list(vouchers[victim])), self._earlier
            keys[victim], vouchers[victim] = now or self._earlier
            return
        keys[victim] = self._own
        if self._how == "unsigned":
            del vouchers[victim]
        elif self._how == "numbers":
            keys[victim], vouchers[victim] = [1, 2], 3
        elif self._how != "swapped":
            signer = Signer.open(TLSFiles.from_dir((self._tls / self._how).parent, Path(self._how).name))
            # All that is signed is known to the server.
            vouchers[victim] = signer.vouch(Agreement(self._digest, {}).statement(int(victim), self._own))


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("count", [3, 5])
def test_the_mean_is_that_of_the_updates(count: int, secure: bool) -> None:  # noqa: FBT001
    offer = replace(OFFER, secure=secure, threshold=count // 2 + 1)
    grid = InProcess(apps(count, offer))
    for number in (1, 2):
        mean = round_of(grid, offer, number, WEIGHTS, 10.0)
        assert mean is not None
        assert mean.clients == count
        for each in mean.update:
            assert each == pytest.approx(number * np.mean(np.arange(count)) * 0.1, abs=2e-6)


def test_what_a_client_sends_looks_like_noise() -> None:
    """Every entry of the update is the same number; what is sent is uniform, and other in each round."""
    stats = pytest.importorskip("scipy.stats")
    grid = Recorded(apps(3))
    for _ in range(2):
        round_of(grid, OFFER, 1, WEIGHTS, 10.0)
    vectors = grid.masked()
    assert len(vectors) == 6
    for each in vectors:
        assert stats.kstest(each.ravel() / 2**32, "uniform").pvalue > 1e-4
    for number in range(3):
        assert not np.isin(vectors[number], vectors[number + 3]).any()


@pytest.mark.parametrize("stage", ["collect_masked_vectors", "unmask"])
def test_a_client_that_dies_within_a_round_is_survived(stage: str) -> None:
    mean = round_of(Recorded(apps(3), {12: stage}), OFFER, 1, WEIGHTS, 10.0)
    assert mean is not None
    assert mean.clients == (2 if stage == "collect_masked_vectors" else 3)
    expected = 0.05 if stage == "collect_masked_vectors" else 0.1
    assert all(each == pytest.approx(expected, abs=2e-6) for each in mean.update)


def test_with_too_few_survivors_there_is_no_result() -> None:
    dies = {11: "collect_masked_vectors", 12: "collect_masked_vectors"}
    assert round_of(Recorded(apps(3), dies), OFFER, 1, WEIGHTS, 10.0) is None


def test_masks_depend_on_every_bit_of_the_secret() -> None:
    """Two secrets that Flower's own generator, with its seed of 32 bits, cannot tell apart."""
    open_flower()
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    one, other = bytes(32), bytes([1, 0, 0, 0]) * 2 + bytes(24)
    theirs = [pseudo_rand_gen(seed, 2**32, [(50,)])[0] for seed in (one, other)]
    ours = [masks(seed, 2**32, [(50,)])[0] for seed in (one, other)]
    assert (theirs[0] == theirs[1]).all()
    assert not (ours[0] == ours[1]).any()
    for name in ("client.mod", "server.workflow"):
        side = import_module(f"flwr.{name}.secure_aggregation.secaggplus_{name.split('.')[1]}")
        assert side.pseudo_rand_gen is masks


def test_masks_are_uniform_in_any_shape() -> None:
    stats = pytest.importorskip("scipy.stats")
    found = masks(b"secret", 2**32, [(1,), (300, 200), ()])
    assert [each.shape for each in found] == [(1,), (300, 200), ()]
    assert stats.kstest(found[1].ravel() / 2**32, "uniform").pvalue > 0.01
    assert masks(b"secret", 2**8, [(9999,)])[0].max() == 255


def test_signed_keys_give_the_same_mean_and_survive_a_client_that_dies(tls: Path) -> None:
    clients = signing(tls)
    last = list(clients)[2]
    for dies, expected in (({}, 0.1), ({last: "collect_masked_vectors"}, 0.05)):
        mean = round_of(VouchedGrid(Recorded(clients, dies), OFFER, tls / "ca.pem"), OFFER, 1, WEIGHTS, 10.0)
        assert mean is not None
        assert all(each == pytest.approx(expected, abs=2e-6) for each in mean.update)


@pytest.mark.parametrize(
    "how", ["setup", "nonce", "swapped", "unsigned", "server", "c", "other/b", "other/server", "text", "numbers"]
)
def test_no_mask_is_made_with_keys_that_their_client_has_not_signed(tls: Path, how: str) -> None:
    """No nonces, those of another time, own keys under the true signature, none, or one by another certificate."""
    grid = Forging(tls, how)
    with pytest.raises(UntrustedPeer, match="leaving"):
        round_of(VouchedGrid(grid, OFFER, tls / "ca.pem"), OFFER, 1, WEIGHTS, 10.0)
    assert not [stage for stage in map(stage_of, grid.replies) if stage in {"share_keys", "collect_masked_vectors"}]


def test_keys_of_an_aggregation_before_are_not_accepted(tls: Path) -> None:
    """Their secrets may be known since: those of a client that dropped out are put together by the server."""
    grid = VouchedGrid(Forging(tls, "replayed"), OFFER, tls / "ca.pem")
    assert round_of(grid, OFFER, 1, WEIGHTS, 10.0) is not None
    with pytest.raises(UntrustedPeer, match="not those that it signed for this aggregation"):
        round_of(grid, OFFER, 1, WEIGHTS, 10.0)


def test_a_client_without_a_valid_signature_is_left_out_and_stops_nobody(tls: Path) -> None:
    clients = signing(tls, NAMES)
    liar = replace(Signer.open(TLSFiles.from_dir(tls / "other", "b")), ca=tls / "ca.pem")
    clients[liar.node] = client_app(OFFER, Constant(0.1), least=3, signer=liar)  # type: ignore[arg-type]
    grid, offer = VouchedGrid(InProcess(clients), OFFER, tls / "ca.pem"), replace(OFFER, threshold=3)
    means = [round_of(grid, offer, 1, WEIGHTS, 10.0) for _ in range(2)]
    assert means[0] is None
    assert means[1] is not None
    assert means[1].clients == 3


def asked(stage: str | None, **values: Any) -> Any:
    from flwr.app import ConfigRecord, Message, RecordDict

    records = {} if stage is None else {"secaggplus_configs": ConfigRecord({"stage": stage, **values})}
    return Message(RecordDict(records), dst_node_id=1, message_type="train")


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        (None, {}),
        ("setup", {"sample_num": 2, "share_num": 2, "threshold": 2}),
        ("setup", {"sample_num": 4, "share_num": 4, "threshold": 2}),
        ("setup", {"sample_num": 5, "share_num": 3, "threshold": 3}),
        ("unmask", {"active_nids": [1, 2, 3], "dead_nids": [3]}),
    ],
)
def test_a_server_that_could_read_one_update_is_left(stage: str | None, values: dict[str, Any]) -> None:
    open_flower()
    with pytest.raises(ConfigError, match="leaving"):
        SecureRules(OFFER, least=3)(asked(stage, **values), None, lambda message, context: message)


@pytest.mark.parametrize("leak", ["metric", "record", "array", "shape", "count", "voucher"])
def test_nothing_but_the_update_is_sent(leak: str) -> None:
    from flwr.app import ConfigRecord
    from flwr.common import ndarrays_to_parameters
    from flwr.compat.common.recorddict_compat import parameters_to_arrayrecord

    plain = replace(OFFER, secure=False)
    grid = Recorded(apps(1, plain))
    round_of(grid, plain, 1, WEIGHTS, 10.0)
    content = grid.replies[0].content
    check_outgoing(grid.replies[0], plain)
    if leak == "metric":
        content.config_records["fitres.metrics"]["example"] = "a text"
    if leak == "record":
        content.config_records["note"] = ConfigRecord({"text": "a text"})
    if leak == "voucher":
        content.config_records[RECORD] = ConfigRecord({"voucher": [b"a text"]})
    if leak == "array":
        content.array_records["more"] = content.array_records["fitres.parameters"]
    if leak == "shape":
        embeddings = ndarrays_to_parameters([np.zeros((50, 8)), np.zeros(3)])
        content.array_records["fitres.parameters"] = parameters_to_arrayrecord(embeddings, keep_input=True)
    if leak == "count":
        content.metric_records["fitres.num_examples"]["num_examples"] = 4711
    with pytest.raises(ConfigError):
        check_outgoing(grid.replies[0], plain)


def test_noise_of_the_server_is_as_large_as_it_says() -> None:
    offer = replace(OFFER, update_norm=0.5, tensors=(("w", (400, 250)),))
    mean = Mean([np.zeros((400, 250))], clients=4)
    found = moved([np.zeros((400, 250), dtype=np.float32)], mean, offer, (2.0, Draws.seeded(1).noise(0)))
    assert found[0].std() == pytest.approx(2.0 * 0.5 / 4, rel=0.02)


def test_an_update_is_clipped_to_its_norm() -> None:
    update = [np.full((3, 2), 2.0, dtype=np.float32), np.full(4, 1.0, dtype=np.float32)]
    found = clipped(update, 0.5)
    assert np.sqrt(sum(np.square(each).sum() for each in found)) == pytest.approx(0.5)
    assert clipped(update, 100.0)[0] == pytest.approx(update[0])
