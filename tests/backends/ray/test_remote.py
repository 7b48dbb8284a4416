"""The front's engine over real gRPC: no answer is lost, repeated or left running, whatever happens to its replicas."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import Engine, EngineDied, EngineFault, EngineRequest
from hybrid_llm.backends.node.engines import ENGINES
from hybrid_llm.backends.node.ray.messages import tokenizer_digest
from hybrid_llm.backends.node.ray.remote import ReplicatedEngine
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.protos import engine_pb2 as pb
from tests.backends.ray.replicas import Arithmetic, config, served, tokens_of, until, whole_answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def asked(number=0, most=12, **fields) -> EngineRequest:
    return EngineRequest(request_id=f"r{number}", prompt_ids=(3, 5, number % 200), max_tokens=most, **fields)


def test_the_replicas_are_one_engine_that_answers_many_at_once(folder):
    async def play():
        first, second = Arithmetic(slots=4), Arithmetic(slots=4)
        async with served(folder, first, second) as (_, front):
            assert isinstance(front, Engine)
            requests = [asked(number, 5 + number) for number in range(20)]
            assert await asyncio.gather(*(tokens_of(front, each) for each in requests)) == [
                *map(whole_answer, requests)
            ]
            assert len(first.seen) >= 5
            assert len(second.seen) >= 5
            await until(lambda: front.replicas == 2)
            assert (front.info.model, front.info.slots, front.load().waiting) == ("m", 8, 2)

    asyncio.run(play())


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=3), lost=st.booleans())
def test_an_answer_goes_on_at_another_replica_from_its_last_token(folder, cuts, lost):
    async def play():
        pending = set(cuts)
        engines = [Arithmetic(stops=pending) for _ in range(4)]
        async with served(folder, *engines) as (balancer, front):
            request, tokens, ends = asked(7), [], []
            async for output in front.stream(request):
                tokens += output.token_ids
                ends.append(output.finish_reason)
                if len(tokens) in pending:
                    holder = next(each for each in balancer.services if each.active and each.healthy)
                    if lost:  # the engine of the replica crashed, and the replica says so
                        holder.healthy = False
                    else:
                        balancer.kill(holder)
                    pending.discard(len(tokens))
            assert front.continuations >= len(set(cuts))
            assert tokens == whole_answer(request)
            assert ends == [None] * (len(ends) - 1) + [FinishReason.LENGTH]
            await until(lambda: not any(each.active for each in engines))

    asyncio.run(play())


def test_what_another_replica_is_sent_says_which_tokens_are_of_the_answer(folder):
    async def play():
        first, second = Arithmetic(), Arithmetic()
        async with served(folder, first) as (balancer, front):
            first.gate.clear()
            answering = asyncio.create_task(tokens_of(front, asked(answered=1)))
            await until(lambda: first.active)
            balancer.add(second, tokenizer=tokenizer_digest(folder))
            balancer.kill(first)
            assert await answering == whole_answer(asked())
            assert (second.seen[0].answered, second.seen[0].max_tokens) == (1, 12)

    asyncio.run(play())


def test_a_replica_that_hangs_is_left_within_the_limit_of_a_stall(folder):
    async def play():
        async with served(folder, stuck := Arithmetic(), stall=1.5) as (balancer, front):
            # Its engine waits, but the replica says each second that it lives: it is not left.
            stuck.gate.clear()
            answering = asyncio.create_task(tokens_of(front, asked()))
            await asyncio.sleep(2.0)
            assert not answering.done()
            assert len(stuck.seen) == 1
            stuck.gate.set()
            assert await answering == whole_answer(asked())

            async def silent(message):  # the whole replica stands still
                await asyncio.sleep(60)
                yield pb.EngineOutput()

            service = balancer.services[stuck]
            living, service.generate = service.generate, silent
            answering = asyncio.create_task(tokens_of(front, asked(1)))
            await asyncio.sleep(0.3)
            service.generate = living
            assert await answering == whole_answer(asked(1))

    asyncio.run(play())


def test_closing_a_stream_reaches_the_replica(folder):
    async def play():
        async with served(folder, engine := Arithmetic()) as (_, front):
            for taken in (0, 1, 5):
                stream = front.stream(asked(taken))
                for _ in range(taken):
                    await anext(stream)
                engine.gate.clear()
                pending = asyncio.create_task(anext(stream))
                await until(lambda: engine.active)
                pending.cancel()
                await asyncio.wait({pending})
                await stream.aclose()
                await until(lambda: not engine.active)
                engine.gate.set()
            assert engine.aborted == 3

    asyncio.run(play())


def test_a_deadline_ends_the_request_at_both_ends(folder):
    async def play():
        async with served(folder, engine := Arithmetic()) as (_, front):
            engine.gate.clear()
            outputs = [each async for each in front.stream(asked(expires=time.monotonic() + 0.2))]
            assert [each.error.code for each in outputs] == ["deadline"]
            await until(lambda: not engine.active)
            assert engine.seen[0].expires < time.monotonic()
            engine.gate.set()
            late = [each async for each in front.stream(asked(expires=time.monotonic() - 1))]
            assert [each.error.code for each in late] == ["deadline"]
            assert len(engine.seen) == 1

    asyncio.run(play())


@pytest.mark.parametrize("by", ["engine", "balancer"])
def test_replicas_that_are_full_say_so_and_are_not_taken_for_dead(folder, by):
    async def play():
        async with served(folder, engine := Arithmetic()) as (balancer, front):
            if by == "engine":
                engine.fault = EngineFault(code="overloaded", message="too many requests are waiting for this engine")
            else:
                balancer.turned_away = grpc.StatusCode.RESOURCE_EXHAUSTED
            outputs = [each async for each in front.stream(asked())]
            assert [each.error.code for each in outputs] == ["overloaded"]
            await asyncio.sleep(1.2)
            assert front.healthy

    asyncio.run(play())


def test_health_follows_the_replicas_and_the_balancer(folder):
    async def play():
        async with served(folder, engine := Arithmetic()) as (balancer, front):
            service = balancer.services[engine]
            balancer.kill(engine)
            await until(lambda: not front.healthy)
            with pytest.raises(EngineDied, match="not running"):
                await tokens_of(front, asked())
            balancer.services[engine] = service
            await until(lambda: front.healthy)
            assert await tokens_of(front, asked()) == whole_answer(asked())

            await balancer.stop()  # every connection is cut
            await until(lambda: not front.healthy)
            await balancer.start()
            await until(lambda: front.healthy)
            assert await tokens_of(front, asked()) == whole_answer(asked())

            engine.healthy = False  # the replica answers, and says that its engine is not there
            await until(lambda: not front.healthy)

    asyncio.run(play())


def test_a_stream_survives_that_the_balancer_restarts(folder):
    async def play():
        async with served(folder, engine := Arithmetic()) as (balancer, front):
            stream, tokens = front.stream(asked(3)), []
            for _ in range(4):
                tokens += (await anext(stream)).token_ids
            await balancer.stop()
            await balancer.start()
            async for output in stream:
                tokens += output.token_ids
            assert tokens == whole_answer(asked(3))
            assert front.continuations > 0
            assert engine.aborted == 1

    asyncio.run(play())


def test_more_streams_than_one_connection_takes_run_at_once(folder):
    async def play():
        async with served(folder, engine := Arithmetic(), most=100) as (_, front):
            engine.gate.clear()
            answering = [asyncio.create_task(tokens_of(front, asked(number, 2))) for number in range(130)]
            await until(lambda: engine.active == 130)
            engine.gate.set()
            await asyncio.gather(*answering)

    asyncio.run(play())


def test_replicas_with_another_tokenizer_get_no_tokens(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text("other", encoding="utf-8")

    async def play():
        async with served(folder, ours := Arithmetic()) as (balancer, front):
            other = ReplicatedEngine(config(tmp_path, balancer.port), on_progress=lambda _: None)
            with pytest.raises(ConfigError, match="another tokenizer"):
                await other.start()
            # An update brings replicas of a model with another tokenizer: those that are left answer.
            balancer.add(stranger := Arithmetic(), tokenizer="other")
            for number in range(6):
                assert await tokens_of(front, asked(number)) == whole_answer(asked(number))
            assert not stranger.seen
            balancer.kill(ours)
            await until(lambda: not front.healthy)

    asyncio.run(play())


def test_a_replica_rejects_what_only_a_later_front_knows(folder):
    async def play():
        async with served(folder, engine := Arithmetic()) as (balancer, _):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{balancer.port}")
            later = pb.EngineRequest(tokenizer=tokenizer_digest(folder), prompt_ids=[1], max_tokens=3)
            call = channel.unary_stream("/hybrid_llm.engine.v1.Replica/Generate", None, pb.EngineOutput.FromString)(
                later.SerializeToString() + b"\xa0\x06\x01"
            )  # field 100
            assert [each.error.code async for each in call] == ["rejected"]
            await channel.close(None)
            assert not engine.seen

    asyncio.run(play())


def test_what_cannot_be_sent_is_rejected_alone(folder):
    async def play():
        async with served(folder, Arithmetic()) as (_, front):
            for bad in (asked(most=2**40), replace(asked(), prompt_ids=(-1,)), replace(asked(), salt=None)):
                outputs = [each async for each in front.stream(bad)]
                assert [each.error.code for each in outputs] == ["rejected"]
            assert await tokens_of(front, asked()) == whole_answer(asked())

    asyncio.run(play())


def test_closing_ends_what_runs_and_leaves_the_replicas(folder):
    async def play():
        async with served(folder, engine := Arithmetic()) as (_, front):
            engine.gate.clear()
            answering = asyncio.create_task(tokens_of(front, asked()))
            await until(lambda: engine.active)
            await front.close()
            with pytest.raises(EngineDied):
                await answering
            await until(lambda: not engine.active)
            assert engine.healthy
            with pytest.raises(EngineDied):
                await front.start()

    asyncio.run(play())


def test_a_front_without_replicas_says_what_is_missing(folder, tmp_path):
    make = ENGINES.get("ray")
    with pytest.raises(ConfigError, match="--replicas HOST:PORT"):
        make(replace(config(folder, 1), replicas=""), on_progress=print)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        make(config(tmp_path, 1), on_progress=print)

    async def play():
        with pytest.raises(EngineDied, match="no replica at"):
            await make(config(folder, 1, load=1.0), on_progress=lambda _: None).start()

    asyncio.run(play())
