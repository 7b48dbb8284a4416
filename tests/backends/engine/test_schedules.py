"""In any order of arrivals and aborts every request ends once, within slots, memory and budget, with its own answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import KV_BLOCK, EngineConfig, EngineInfo, EngineOutput, EngineRequest
from hybrid_llm.backends.node.engines.blocks import BlockPool, Copy, Table
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine
from hybrid_llm.backends.node.engines.scheduler import Scheduler

SLOTS, WINDOW, BUDGET, WAITING, VOCAB = 3, 48, 7, 4, 31
MOST_STEPS = 3000

events = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 40), st.integers(1, 12)),
        st.tuples(st.just("fork"), st.integers(0, 20), st.integers(0, 40)),
        st.tuples(st.just("abort"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 4), st.just(0)),
    ),
    max_size=30,
)


class Tape:
    """A runner whose next token depends on everything in a text's blocks, and that checks what it is asked to do."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.blocks: dict[int, list[int]] = {block: [] for block in range(scheduler.pool.blocks)}

    def forward(self, segments):
        check_memory(self.scheduler)
        assert len({segment.table for segment in segments}) == len(segments) <= SLOTS
        assert sum(len(segment.ids) for segment in segments) <= BUDGET + SLOTS
        rows = []
        for segment in segments:
            assert segment.end <= min(WINDOW, len(segment.table.blocks) * KV_BLOCK)
            for position, token in enumerate(segment.ids, segment.start):
                self.write(segment.table, position, token)
            if segment.complete:
                text = [token for block in segment.table.blocks for token in self.blocks[block]][: segment.end]
                rows.append(torch.nn.functional.one_hot(torch.tensor(answer(text)), VOCAB).float())
        return torch.stack(rows) if rows else torch.zeros(0, VOCAB)

    def write(self, table: Table, position: int, token: int) -> None:
        block = table.blocks[position // KV_BLOCK]
        held = [other for other in self.scheduler.running.values() if block in other.table.blocks]
        assert [other.table for other in held] == [table], "writes to what others hold, or to what nobody does"
        kept = self.blocks[block][: position % KV_BLOCK]
        assert len(kept) == position % KV_BLOCK, "reads on from what is not in the cache"
        self.blocks[block] = [*kept, token]

    def wipe(self, blocks: list[int]) -> None:
        raise AssertionError("nothing fails here")

    def copy(self, copy: Copy) -> None:
        assert copy.source != copy.target
        assert copy.tokens <= len(self.blocks[copy.source]), "copies what is not in the cache"
        self.blocks[copy.target] = self.blocks[copy.source][: copy.tokens]

    def intact(self, table: Table, first: int, last: int) -> bool:
        assert first < last <= len(table.blocks) * KV_BLOCK
        return True


def check_memory(scheduler: Scheduler) -> None:
    """Each block is counted once for each text that holds it, or is free; what is set aside belongs to one."""
    pool = scheduler.pool
    tables = [sequence.table for sequence in scheduler.running.values()]
    holders = Counter(block for table in tables for block in table.blocks)
    assert all(len(set(table.blocks)) == len(table.blocks) for table in tables)
    assert pool.held == len(holders) <= pool.blocks
    assert pool._holders == [holders[block] for block in range(pool.blocks)]
    aside = Counter(block for table in tables for block in range(table.next, table.end))
    assert set(aside.values()) <= {1}
    assert not aside.keys() & holders.keys()
    assert [bool(each) for each in pool._busy] == [block in aside or block in holders for block in range(pool.blocks)]
    assert not any(sequence.table.blocks for sequence in scheduler.waiting.values())


def answer(tokens: list[int]) -> int:
    return hash(tuple(tokens)) % VOCAB


def alone(prompt: tuple[int, ...], most: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(most):
        tokens.append(answer(tokens))
    return tokens[len(prompt) :]


@given(events=events, blocks=st.integers(WINDOW // KV_BLOCK, 10))
@settings(max_examples=300, deadline=None)
def test_every_request_ends_exactly_once_with_the_answer_it_gets_alone(events, blocks):
    """In any amount of memory that holds one window, so that answers that grow must make room for each other."""
    info = EngineInfo(engine="tape", model="m", architecture="a", vocab_size=VOCAB, context_window=WINDOW, slots=SLOTS)
    scheduler = Scheduler(BlockPool(blocks), slots=SLOTS, prefill_budget=BUDGET, max_waiting=WAITING)
    check(LoopEngine(Tape(scheduler), info, scheduler), events, alone)
    check_memory(scheduler)
    assert scheduler.pool.held == 0


class Trial:
    """Plays events to an engine, and holds every output against what must never happen."""

    def __init__(self, engine: LoopEngine) -> None:
        self.engine = engine
        self.submitted: dict[str, EngineRequest] = {}
        self.finished: dict[str, list[int]] = {}
        self.tokens: dict[str, list[int]] = {}
        self.given_up: set[str] = set()
        self.salts = ("mine", "mine", "yours")

    def play(self, kind: str, first: int, second: int) -> None:
        if kind == "submit":
            self.submit(tuple((first * 7 + index * 3) % self.engine.info.vocab_size for index in range(first)), second)
        elif kind == "fork" and str(first) in self.submitted:
            self.fork(str(first), second)
        elif kind == "step":
            for _ in range(first):
                self.step()
        elif str(first) in self.submitted.keys() - self.finished.keys():
            self.engine.abort(str(first))
            self.given_up.add(str(first))

    def fork(self, request_id: str, length: int) -> None:
        """Begin as another one did, its answer so far included, for *length* tokens; then go another way."""
        told = (*self.submitted[request_id].prompt_ids, *self.tokens.get(request_id, ()))
        self.submit((*told[:length], 1 + len(self.submitted) % (self.engine.info.vocab_size - 1)), 4)

    def submit(self, prompt: tuple[int, ...], most: int) -> None:
        salt = self.salts[len(self.submitted) % len(self.salts)]
        request = EngineRequest(
            request_id=str(len(self.submitted)), prompt_ids=prompt, max_tokens=most, salt=salt, client=salt
        )
        self.submitted[request.request_id] = request
        self.engine.submit(request)

    def step(self) -> None:
        for output in self.engine.step():
            self.hear(output)
        load = self.engine.load()
        assert load.active <= load.slots
        assert load.kv_tokens_used <= load.kv_tokens_total

    def hear(self, output: EngineOutput) -> None:
        assert output.request_id not in self.finished.keys() | self.given_up
        assert output.cached_tokens < len(self.submitted[output.request_id].prompt_ids)
        self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
        if output.error is not None:
            assert output.error.code in {"rejected", "overloaded"}
            self.given_up.add(output.request_id)
        elif output.last:
            self.finished[output.request_id] = self.tokens[output.request_id]


def check(engine: LoopEngine, events: list[tuple[str, int, int]], alone: Callable[..., list[int]]) -> None:
    trial = Trial(engine)
    for event in events:
        trial.play(*event)
    for _ in range(MOST_STEPS):
        if not engine.idle:
            trial.step()
    assert engine.idle, "requests wait for each other"
    assert trial.finished.keys() | trial.given_up == trial.submitted.keys()
    for request_id, tokens in trial.finished.items():
        request = trial.submitted[request_id]
        assert tokens == alone(request.prompt_ids, request.max_tokens)


@given(events=events)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_real_model_answers_under_any_schedule_as_it_does_alone(events, model_folder, expected):
    check(engine_of(model_folder("llama")), events, lambda ids, most: single(expected, model_folder, ids, most))


@cache
def engine_of(folder):
    return load_engine(
        EngineConfig(model=folder, max_slots=SLOTS, kv_tokens=96, prefill_budget=BUDGET, max_waiting=64, threads=1)
    )


@cache
def single(expected, model_folder, ids, most):
    return expected(model_folder("llama"), EngineRequest(request_id="alone", prompt_ids=ids, max_tokens=most))
