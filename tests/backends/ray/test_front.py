"""A node before replicas is a node: over mutual TLS its client sees one whole answer, whatever happens behind it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_llm.backends.node.ray.messages import tokenizer_digest
from hybrid_llm.backends.node.ray.remote import ReplicatedEngine
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded
from tests.backends.ray.replicas import Arithmetic, Balancer, config
from tests.backends.wire.fakes import Node, answer, backend, cleared, eventually


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=("127.0.0.1",))
    issue(folder, "app")
    return folder


class World:
    """Replicas, the node before them, and its client."""

    def __init__(self, folder, tls, count=2):
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        self.tokenizer = tokenizer_digest(folder)
        self.node = Node(TLSFiles.from_dir(tls, "node"))
        self.node.thread.start()
        self.engines = [self.node.do(self._engine()) for _ in range(count)]
        self.balancer = Balancer(self.engines, tokenizer=self.tokenizer)
        self.node.do(self.balancer.start())
        self.node.server._engine = ReplicatedEngine(config(folder, self.balancer.port), on_progress=lambda _: None)
        self.node.port = self.node.do(self.node.server.start())
        self.client = backend(self.node.target, TLSFiles.from_dir(tls, "app"))

    async def _engine(self):
        return Arithmetic()

    def in_loop(self, call, *arguments):
        async def run():
            return call(*arguments)

        return self.node.do(run())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.node.do(self.balancer.stop())
        self.node.__exit__()


def test_a_client_sees_one_whole_answer_though_its_replica_is_killed(tmp_path, tls):
    with World(tmp_path, tls) as world, ThreadPoolExecutor(1) as pool:
        request = cleared("tell me", max_tokens=40)
        whole = answer(world.client.stream(request))
        assert whole
        for engine in world.engines:
            world.in_loop(engine.gate.clear)
        reading = pool.submit(list, world.client.stream(request))
        eventually(lambda: any(each.active for each in world.engines))
        world.in_loop(world.balancer.kill, next(each for each in world.engines if each.active))
        for engine in world.engines:
            world.in_loop(engine.gate.set)
        chunks = reading.result(20)
        assert answer(chunks) == whole
        assert chunks[-1].usage.completion_tokens == 40


def test_a_late_request_frees_its_replica_and_one_without_replicas_is_told(tmp_path, tls):
    with World(tmp_path, tls, count=1) as world, ThreadPoolExecutor(1) as pool:
        (engine,) = world.engines
        world.in_loop(engine.gate.clear)
        late = pool.submit(list, world.client.stream(cleared("hi", deadline=1.0)))
        eventually(lambda: engine.active)
        with pytest.raises(DeadlineExceeded):
            late.result(20)
        eventually(lambda: not engine.active)
        world.in_loop(engine.gate.set)
        world.in_loop(world.balancer.kill, engine)
        eventually(lambda: not world.node.server._engine.healthy, 20)
        with pytest.raises(BackendUnavailable):
            list(world.client.stream(cleared("hi")))


def test_grpc_is_not_imported_before_the_node_requires_tls_13_of_it():
    code = "import sys; from hybrid_llm.backends.node.engines import ENGINES; ENGINES.get('ray')"
    code += "; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
