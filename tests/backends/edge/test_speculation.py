"""Speculative decoding by prompt lookup changes no answer, is off where it does not pay, and is checked before use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.edge.sampling import Sampler
from hybrid_llm.backends.edge.speculation import ROWS, PromptLookup, RowRuns, Speculation
from hybrid_llm.backends.edge.structure import Structure
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Sampling

VOCAB = 12


def cost(rows: int) -> float:
    """Seconds of a run, as measured with real weights."""
    return 1 + 0.18 * (rows - 1)


PROMPT = [1, 2, 3, 4, 5, 1, 2, 3]


class FakeSequence:
    """Follows *text* as far as it goes, then its last two tokens; several tokens in one run get *noise* on top."""

    def __init__(self, text: Sequence[int], capacity: int, noise: float = 0.0, sure: float = 20.0) -> None:
        self._text, self._capacity, self._noise, self._sure = text, capacity, noise, sure
        self.tokens: list[int] = []
        self.runs: list[int] = []
        self.seconds = 0.0
        self.buffers = [np.zeros((1, 1, capacity, 1))]

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def room(self) -> int:
        return self._capacity - len(self.tokens)

    def append(self, ids: Sequence[int]) -> np.ndarray:
        return self._take(ids)[-1].copy()

    def append_rows(self, ids: Sequence[int]) -> np.ndarray:
        return self._take(ids) + np.float32(self._noise)

    def rewind(self, length: int) -> None:
        assert 0 <= length <= self.length
        del self.tokens[length:]

    def _take(self, ids: Sequence[int]) -> np.ndarray:
        assert 0 < len(ids) <= self.room
        self.runs.append(len(ids))
        self.seconds += cost(len(ids))
        rows = []
        for token in ids:
            self.buffers[0][0, 0, self.length] = token
            self.tokens.append(token)
            rows.append(self._logits())
        return np.stack(rows)

    def _logits(self) -> np.ndarray:
        at, last = self.length, self.tokens[-2:]
        likely = self._text[at] if at < len(self._text) else sum(last) % VOCAB
        logits = np.random.default_rng([at, *last]).normal(size=VOCAB).astype(np.float32)
        logits[likely] += self._sure
        return logits


def speculate(sequence: FakeSequence, runs: RowRuns) -> Speculation:
    return Speculation(sequence, runs, PROMPT, clock=lambda: sequence.seconds)


def answer(sequence, append, sampling: Sampling, tokens: int, prompt=PROMPT) -> list[int]:
    sampler, pending, drawn = Sampler(sampling, prompt, VOCAB), list(prompt), []
    for _ in range(tokens):
        drawn.append(sampler.draw(append(pending)))
        assert sequence.tokens[: len(prompt) + len(drawn) - 1] == [*prompt, *drawn[:-1]]
        pending = drawn[-1:]
    return drawn


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    seed=st.integers(0, 5),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
)
texts = st.lists(st.integers(0, VOCAB - 1), max_size=60)


@given(
    text=texts, repeat=st.integers(0, 3), sampling=samplings, tokens=st.integers(1, 60), noise=st.sampled_from([0, 1])
)
@settings(deadline=None)
def test_every_draw_is_the_one_without_proposals(text, repeat, sampling, tokens, noise):
    """Greedy and by seed, with a penalty, whatever repeats, up to the last place, also where runs are inexact."""
    whole = [*PROMPT, *text * (1 + repeat)]
    plain = FakeSequence(whole, len(PROMPT) + tokens, sure=4)
    expected = answer(plain, plain.append, sampling, tokens)
    sequence, runs = FakeSequence(whole, len(PROMPT) + tokens, noise, sure=4), RowRuns()
    for _ in range(2):  # at first each size of run is compared, then used
        speculation = speculate(sequence, runs)
        assert answer(sequence, speculation.append, sampling, tokens) == expected
        speculation.settle()
        assert sequence.tokens == [*PROMPT, *expected[:-1]]
        assert 0 <= speculation.accepted < tokens
        assert speculation.rejected >= 0
        sequence.rewind(0)
    assert runs.exact or noise


def test_text_that_repeats_takes_few_runs():
    whole, sequence, runs = PROMPT * 30, FakeSequence(PROMPT * 30, 240), RowRuns()
    answer(sequence, speculate(sequence, runs).append, Sampling(), 200)
    sequence.rewind(0)
    sequence.runs.clear()
    speculation = speculate(sequence, runs)
    assert answer(sequence, speculation.append, Sampling(), 200) == whole[8:208]
    assert len(sequence.runs) < 35
    assert set(sequence.runs[1:]) <= {1, *ROWS}
    assert speculation.accepted > 160


def test_text_that_only_seems_to_repeat_takes_the_runs_that_it_would_take():
    """The last tokens came before, and something else follows each time."""
    rng = np.random.default_rng(3)
    whole = [*PROMPT, *(token for _ in range(150) for token in (1, 2, int(rng.integers(3, VOCAB))))]
    sequence, runs = FakeSequence(whole, 500), RowRuns()
    answer(sequence, speculate(sequence, runs).append, Sampling(), 400)
    assert sum(map(cost, sequence.runs[1:])) < 1.02 * 400


def test_a_processor_that_is_inexact_is_noticed_and_no_run_is_tried_again():
    sequence, runs = FakeSequence(PROMPT * 30, 240, noise=1e-6), RowRuns()
    answer(sequence, speculate(sequence, runs).append, Sampling(), 100)
    assert not runs.exact
    assert sum(rows > 1 for rows in sequence.runs[1:]) == 1


@given(tokens=st.lists(st.integers(0, 3), max_size=80), most=st.integers(1, 9))
def test_a_proposal_is_what_followed_the_longest_match_most_recently(tokens, most):
    matched, found = PromptLookup(tokens).proposal(most)
    for length in (4, 3, 2):
        starts = [at for at in range(length, len(tokens)) if tokens[at - length : at] == tokens[-length:]]
        if starts:
            piece = tokens[starts[-1] :]
            assert (matched, found) == (length, (piece * most)[:most])
            return
    assert (matched, found) == (0, [])


class Fields:
    """A document of fields: a separator 1 or 9, a name that is forced, 20 and up, a mark 2 or 3, a value 30 to 39."""

    def __init__(self, taken: int = 0) -> None:
        self.taken = taken

    def forced(self) -> list[int]:
        return [20 + self.taken // 4] if self.taken % 4 == 1 else []

    def fork(self) -> Fields:
        return Fields(self.taken)

    def follow(self, token: int) -> bool:
        field, part = divmod(self.taken, 4)
        allowed = token in ((1, 9), (20 + field,), (2, 3), range(30, 40))[part]
        self.taken += allowed
        return allowed


def structure_of(tokens: Sequence[int]) -> Structure:
    rules = Fields()
    structure = Structure(rules)
    for token in tokens:
        assert rules.follow(token)
        structure.push(token)
    return structure


def test_forced_names_and_what_stood_between_values_before_are_proposed():
    first = [1, 20, 2, 31]
    assert structure_of(first[:1]).proposal(7) == [20]
    assert structure_of([*first, 1]).proposal(7) == [21, 2, 31, 1, 22, 2, 31]
    second = [*first, 1, 21, 2, 35]
    assert structure_of([*second, 1]).proposal(7) == [22, 2]
    assert structure_of([*second, 1]).proposal(1) == [22]
    assert structure_of(second).proposal(7) == []
    assert structure_of([*second, 9]).proposal(7) == [22, 2]
    assert structure_of([*second, 1]).allowed([22, 3, 30, 2]) == [22, 3, 30]


@given(choices=st.lists(st.tuples(st.sampled_from([1, 9]), st.sampled_from([2, 3]), st.integers(30, 39)), max_size=8))
def test_no_structure_is_proposed_that_the_grammar_forbids(choices):
    tokens = [token for at, (one, two, three) in enumerate(choices) for token in (one, 20 + at, two, three)]
    for end in range(len(tokens) + 1):
        rules = Fields(end)
        assert all(rules.follow(token) for token in structure_of(tokens[:end]).proposal(7))


# --- through the backend ---------------------------------------------------------------------------------------------


def collect(backend, request):
    chunks = list(backend.stream(request))
    return [(chunk.text, chunk.tokens) for chunk in chunks], chunks[-1]


REQUESTS = {
    "greedy": {},
    "by seed": {"sampling": Sampling(temperature=0.8, seed=3)},
    "penalty": {"sampling": Sampling(repetition_penalty=1.1)},
    "penalties of the answer": {"sampling": Sampling(presence_penalty=0.5, frequency_penalty=0.1)},
    "stop text": {"sampling": Sampling(stop=("e",))},
    "one token": {"max_tokens": 1},
    "schema": {
        "output_schema": '{"type": "array", "items": {"enum": ["aeiou", "aeiox"]}, "minItems": 6, "maxItems": 9}'
    },
}


@pytest.mark.parametrize("name", REQUESTS)
def test_chunks_reason_and_usage_are_those_without(imported, edge, clear, is_exact, name):
    request = clear("aeiou aeiou aeiou", **{"max_tokens": 300, "deadline": 200.0, **REQUESTS[name]})
    quick, plain = edge(imported), edge(imported, speculation="off")
    expected, last = collect(plain, request)
    for turn in range(2):
        chunks, ours = collect(quick, request)
        assert chunks == expected
        assert ours.finish_reason is last.finish_reason
        assert (ours.usage.prompt_tokens, ours.usage.completion_tokens) == (
            last.usage.prompt_tokens,
            last.usage.completion_tokens,
        )
        assert ours.usage.accepted_prediction_tokens < max(1, ours.usage.completion_tokens)
        if name == "schema" and turn:
            assert (ours.usage.accepted_prediction_tokens > 0) == is_exact(imported)
    assert last.usage.accepted_prediction_tokens == last.usage.rejected_prediction_tokens == 0


def test_an_answer_that_is_given_up_within_a_run_leaves_the_prompt_to_reuse(imported, edge, clear):
    quick, plain = edge(imported), edge(imported, speculation="off", reuse_prefixes=False)
    request = clear("aeiou aeiou " * 12, max_tokens=200, deadline=200.0)
    for pieces in (30, 41, 57):
        with closing(quick.stream(request)) as chunks:
            begun = "".join(chunk.text for chunk in islice(chunks, pieces))
        again = clear("aeiou aeiou " * 12, max_tokens=60, deadline=200.0, answer_prefix=begun)
        chunks, last = collect(quick, again)
        assert last.usage.cached_prompt_tokens > 0
        assert chunks == collect(plain, again)[0]


def test_a_model_of_older_folders_answers_without(edge, clear):
    _, last = collect(edge(), clear("aeiou aeiou", max_tokens=40))
    assert last.usage.accepted_prediction_tokens == last.usage.rejected_prediction_tokens == 0


def test_an_unknown_setting_is_refused(edge):
    with pytest.raises(ConfigError, match="speculation: 'on' is not `auto` or `off`"):
        edge(speculation="on")


@pytest.mark.weights
@pytest.mark.slow
def test_real_weights_answer_the_same_alone_and_four_at_once(smollm2_folder, edge, clear, is_exact):
    text = (
        "The river Lea rises in the Chiltern Hills and flows through Luton, Hertford and Ware before it meets the "
        "Thames at Bow Creek in London. For centuries it was used for milling and to carry grain."
    )
    towns = {"type": "array", "items": {"type": "string"}, "maxItems": 4}
    river = {"type": "object", "properties": {"river": {"type": "string"}, "towns": towns}, "required": ["towns"]}
    repeat, summarise = "Repeat this text word by word.", "Summarise this text in one sentence."
    asked = [
        clear(f"{what}\n\n{text}", max_tokens=30, deadline=900.0, **options)
        for what, options in (
            (repeat, {}),
            (repeat, {"sampling": Sampling(temperature=0.7, seed=4)}),
            (summarise, {}),
            (summarise, {"output_schema": json.dumps(river)}),
        )
    ]
    quick, plain = (
        edge(smollm2_folder, max_concurrency=4),
        edge(smollm2_folder, speculation="off", reuse_prefixes=False),
    )
    expected = [collect(plain, request)[0] for request in asked]
    accepted = 0
    with ThreadPoolExecutor(4) as pool:
        for answers in (map, pool.map):
            got = list(answers(lambda request: collect(quick, request), asked))
            assert [chunks for chunks, _ in got] == expected
            accepted += sum(last.usage.accepted_prediction_tokens for _, last in got)
    if is_exact(smollm2_folder):
        assert accepted > 30, "hardly anything was proposed: equality proves nothing"
    else:
        assert accepted == 0
