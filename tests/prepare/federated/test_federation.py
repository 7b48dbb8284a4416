"""Three clients and a server over TLS: they learn, one is killed, and a proxy looks for what must not leave."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.errors import BackendUnavailable, ConfigError, PermissionDenied, UntrustedPeer
from hybrid_llm.prepare.federated.client import Join
from hybrid_llm.prepare.federated.frames import Frame, Kind
from hybrid_llm.prepare.federated.options import weights_of
from hybrid_llm.prepare.federated.roster import Roster
from hybrid_llm.prepare.federated.rounds import round_of
from hybrid_llm.prepare.federated.server import Federate
from hybrid_llm.prepare.federated.simulation import FederateSimulation
from hybrid_llm.prepare.federated.vouching import VouchedGrid
from hybrid_llm.prepare.hub_folder import HubFolder
from hybrid_llm.prepare.step import Input, Outcome, Work
from tests.prepare.federated.proxy import RecordingProxy
from tests.prepare.federated.world import CLIENTS, PLANTED, World
from tests.prepare.privacy import tiny

pytest.importorskip("flwr", reason="Flower is installed by `make federated`, apart from the other tests")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def work(folder: Path) -> Work:
    for each in (folder / "out", folder / "scratch"):
        each.mkdir(parents=True, exist_ok=True)
    return Work(out=folder / "out", scratch=folder / "scratch", seed=3)


def server(world: World, port: int, **options: Any) -> Federate:
    common: dict[str, Any] = {"rounds": 3, "epochs": 2.0, "learning_rate": 0.01, "patience": 120.0, **options}
    return Federate(
        model=Input(str(world.root / "base")),
        labels=tiny.LABELS,
        address=f"127.0.0.1:{port}",
        tls=world.root / "tls",
        certificate="server",
        held_out=Input(str(world.root / "held-out")),
        **common,
    )


def client(world: World, name: str, port: int, **options: Any) -> Join:
    return Join(
        server=f"127.0.0.1:{port}",
        model=Input(str(world.root / "base")),
        data=Input(str(world.root / name)),
        tls=world.root / "tls",
        certificate=options.pop("certificate", name),
        **options,
    )


@contextmanager
def running(steps: dict[str, Federate | Join], folder: Path) -> Iterator[dict[str, Future[Outcome]]]:
    with ThreadPoolExecutor(len(steps)) as pool:
        yield {name: pool.submit(step.run, work(folder / name)) for name, step in steps.items()}


def test_three_clients_learn_together_and_only_updates_leave(world: World, port: int, tmp_path: Path) -> None:
    with RecordingProxy(world.root / "tls", CLIENTS[0], f"127.0.0.1:{port}") as proxy:
        ports = dict(zip(CLIENTS, (proxy.port, port, port), strict=True))
        steps: dict[str, Any] = {name: client(world, name, ports[name]) for name in CLIENTS}
        with running({"server": server(world, port), **steps}, tmp_path) as found:
            outcome = found["server"].result()
            logs = {name: found[name].result() for name in CLIENTS}
    assert outcome.metrics["accuracy"] > outcome.before["accuracy"] + 0.1
    assert outcome.card["federated"]["clients"] == [3, 3, 3]
    assert HubFolder.open(tmp_path / "server" / "out").labels == tiny.LABELS
    seen = sum(map(len, proxy.sent))  # without what it said to a server that was not there yet
    assert logs[CLIENTS[0]].metrics["sent_mb"] * 1e6 == pytest.approx(seen, abs=500)
    assert json.loads((tmp_path / CLIENTS[0] / "out" / "results.json").read_text())["tasks"] == 15
    nothing_private_in(b"".join(proxy.sent), world)
    only_offered_tensors_in(proxy)


def nothing_private_in(sent: bytes, world: World) -> None:
    """Neither the words of the data, nor its tokens as numbers of any width, nor how many records there are."""
    import numpy as np

    ids = HubFolder.open(world.root / "base").tokenizer()(PLANTED, add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    wanted = [word.encode() for word in (*tiny.WORDS, *tiny.LABELS)] + [PLANTED.encode()]
    tokens = [np.array(ids, dtype=kind).tobytes() for kind in ("<u2", "<i4", "<i8", "<f4", "<f8", ">i4", ">i8")]
    assert not [each for each in (wanted[-1], *tokens) if each in sent]
    assert not [each for each in wanted[:-1] if b" " + each in sent or each + b" " in sent]


def only_offered_tensors_in(proxy: RecordingProxy) -> None:
    from flwr.common import bytes_to_ndarray
    from flwr.common.serde import message_from_proto
    from flwr.proto.message_pb2 import Message as Proto

    received = [Frame.unpack(each) for each in proxy.received]
    offer = json.loads(next(each.body for each in received if each.kind is Kind.OFFER))
    assert all("lora_" in name or "classifier" in name for name, _ in offer["tensors"])
    shapes = [(1,), *(tuple(shape) for _, shape in offer["tensors"])]
    replies = [message_from_proto(Proto.FromString(each[1:])) for each in proxy.sent if each[:1] == Kind.REPLY.value]
    masked = [each.content.config_records.get("secaggplus_configs", {}).get("masked_params") for each in replies]
    vectors = [[bytes_to_ndarray(array) for array in each] for each in masked if each]
    assert len(vectors) == 3
    assert all([array.shape for array in each] == shapes for each in vectors)
    assert not any(each.content.array_records.get("fitres.parameters") for each in replies)


def test_a_client_that_is_killed_in_a_round_stops_nobody(world: World, port: int, tmp_path: Path) -> None:
    steps: dict[str, Any] = {name: client(world, name, port, hide_among=2) for name in CLIENTS[:2]}
    with running({"server": server(world, port, rounds=4), **steps}, tmp_path) as found:
        third = world.join(CLIENTS[2], port)
        deadline = time.monotonic() + 120
        while "round 2 of" not in world.log(f"{CLIENTS[2]}-log") and time.monotonic() < deadline:
            time.sleep(0.01)
        third.send_signal(signal.SIGKILL)
        third.wait()
        outcome = found["server"].result()
        assert all(found[name].result().metrics["tasks"] >= 15 for name in CLIENTS[:2])
    assert third.returncode == -signal.SIGKILL
    assert len(outcome.card["federated"]["clients"]) == 4
    assert outcome.card["federated"]["clients"][-1] == 2


def test_budgets_of_a_client_and_of_the_server_are_on_the_cards(world: World, port: int, tmp_path: Path) -> None:
    steps: dict[str, Any] = {name: client(world, name, port) for name in CLIENTS[1:]}
    steps[CLIENTS[0]] = client(world, CLIENTS[0], port, target_epsilon=4.0)
    serve = server(world, port, rounds=2, update_norm=0.5, target_epsilon=5.0, delta=0.01)
    with running({"server": serve, **steps}, tmp_path) as found:
        outcome, private = found["server"].result(), found[CLIENTS[0]].result()
    assert 3.5 < private.card["privacy"]["epsilon"] <= 4.0
    assert private.card["privacy"]["unit"] == "record"
    assert 4.5 < outcome.card["privacy"]["epsilon"] <= 5.0
    assert outcome.card["privacy"]["unit"] == "client"
    spent = json.loads((tmp_path / CLIENTS[0] / "scratch" / "spent.json").read_text())
    assert spent["steps"] == 2 * 8
    again = {CLIENTS[0]: steps[CLIENTS[0]]}
    more = {name: client(world, name, port) for name in CLIENTS[1:]}
    short = server(world, port, rounds=2, update_norm=0.5, min_clients=3)
    with running({"second": short, **again, **more}, tmp_path) as found:
        with pytest.raises(ConfigError, match="the privacy budget is spent"):
            found[CLIENTS[0]].result()
        with pytest.raises(ConfigError):
            found["second"].result()
        for name in more:
            assert found[name].exception() is not None


def test_a_certificate_that_is_not_on_the_list_is_refused(world: World, port: int, tmp_path: Path) -> None:
    serve = server(world, port, allowed=(CLIENTS[0],), patience=8.0)
    with running({"server": serve, "b": client(world, CLIENTS[1], port)}, tmp_path) as found:
        with pytest.raises(PermissionDenied, match="not on the server's list"):
            found["b"].result()
        with pytest.raises(ConfigError, match="nobody is ready, and 3 clients are needed"):
            found["server"].result()


def test_a_certificate_of_another_authority_does_not_connect(world: World, port: int, tmp_path: Path) -> None:
    make_authority(tmp_path / "tls")
    issue(tmp_path / "tls", CLIENTS[0])
    other = client(World(world.root), CLIENTS[0], port, patience=2.0)
    with running({"server": server(world, port, patience=8.0)}, tmp_path) as found:
        stranger = Join(
            server=other.server,
            model=other.model,
            data=other.data,
            tls=tmp_path / "tls",
            certificate=CLIENTS[0],
            patience=2.0,
        )
        with pytest.raises(BackendUnavailable, match="check address and certificates"):
            stranger.run(work(tmp_path / "stranger"))
        with pytest.raises(ConfigError):
            found["server"].result()


def test_a_client_does_not_agree_to_be_read(world: World, port: int, tmp_path: Path) -> None:
    serve = server(world, port, secure_aggregation=False, clients=1, patience=8.0)
    with running({"server": serve, "a": client(world, CLIENTS[0], port)}, tmp_path) as found:
        with pytest.raises(ConfigError, match="accept_plain"):
            found["a"].result()
        with pytest.raises(ConfigError):
            found["server"].result()


def test_clients_leave_a_server_that_passes_on_other_keys(world: World, port: int, tmp_path: Path) -> None:
    """It speaks the protocol up to the keys: those of two clients are swapped."""
    step, tls = server(world, port), TLSFiles.from_dir(world.root / "tls", "server")
    subject, base = step.subject(work(tmp_path / "server"))
    offer = step.offer(subject, base)
    steps = {name: client(world, name, port, patience=20.0) for name in CLIENTS}
    with Roster(step.address, tls, offer.to_json(), (), 6) as roster, running(steps, tmp_path) as found:
        roster.wait_for(3, 60.0)
        assert round_of(Swapping(roster, offer, tls.ca), offer, 1, weights_of(subject), 60.0) is None
        for name in CLIENTS:
            with pytest.raises(UntrustedPeer, match="not those that it signed"):
                found[name].result()


class Swapping(VouchedGrid):
    """Gives each client the keys of one other as those of the second, and the other way round."""

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        asked = list(messages)
        for each in asked:
            keys = each.content.config_records.get("secaggplus_configs", {})
            if keys.get("stage") == "share_keys":
                one, other = (name for name in keys if name not in {"stage", str(each.metadata.dst_node_id)})
                keys[one], keys[other] = keys[other], keys[one]
        return super().send_and_receive(asked, timeout=timeout)


def test_two_clients_cannot_hide_from_each_other(world: World, port: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 3 clients"):
        server(world, port, clients=2).run(work(tmp_path))


def test_a_simulation_learns_as_well(world: World, tmp_path: Path) -> None:
    rows = tiny.labelled(300, 1, meaning=True)
    splits = {"train": rows, "test": tiny.labelled(100, 9, meaning=True)}
    data = tiny.data(tmp_path / "data", tiny.DataFormat.LABELLED, **splits)
    step = FederateSimulation(
        model=Input(str(world.root / "base")),
        data=Input(str(data.path)),
        labels=tiny.LABELS,
        clients=6,
        rounds=3,
        epochs=2.0,
        learning_rate=0.01,
    )
    outcome = step.run(work(tmp_path))
    assert outcome.metrics["accuracy"] > outcome.before["accuracy"] + 0.1
