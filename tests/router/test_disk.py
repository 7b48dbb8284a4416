"""The cache on disk: what is read is what was written, nothing of it can be read without the key, nothing fails."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hybrid_llm.core.clearance import Cleared, Purpose
from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.generation import FinishReason, Usage
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.request import Location, Message, Request, Sampling
from hybrid_llm.core.savings import Savings
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.answers import CachedAnswer, decoded, encoded
from hybrid_llm.router.caching.database import files_of
from hybrid_llm.router.caching.disk import DiskCache
from hybrid_llm.router.privacy import PrivacyGuard
from tests.fakes import A_DAY

ROOT = Path(__file__).resolve().parents[2]
POLICY = parse_policy(
    "version: 1\nname: t\ntags: {a: {allow: [edge]}, b: {allow: [edge]}}\n"
    "rules: [{prefer: [edge], because: there is no other}]\n",
    backends={"edge": Location.EDGE},
)
CREATED = time.monotonic()
PROMPT, WORDS = "what the patient Quetzalcoatl asked", "what Popocatepetl answered"


def request(text: str = PROMPT, **options) -> Request:
    return Request(messages=(Message(role="user", content=text),), deadline=A_DAY, created=CREATED, **options)


def cleared(asked: Request | None = None, purpose: Purpose = Purpose.CACHE) -> Cleared:
    guard = PrivacyGuard()
    return guard.clear(guard.assess(asked or request(), POLICY), Location.EDGE, purpose)


def answer(text: str = WORDS, **others) -> CachedAnswer:
    parts = {"finish_reason": FinishReason.STOP, "usage": Usage(prompt_tokens=3), "backend": "edge", "took_ms": 0.1}
    return CachedAnswer(text=text, **parts | others)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


@pytest.fixture
def cache(path: Path) -> Iterator[DiskCache]:
    with closing(DiskCache(path)) as opened:
        yield opened


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix != ".key")


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path) if file.exists())


ALTERNATIVES = st.builds(
    Alternative, token=st.text(max_size=4), logprob=st.floats(allow_nan=False), bytes=st.binary(max_size=4)
)
TOKENS = st.builds(
    TokenLogprob,
    token=st.text(max_size=4),
    logprob=st.floats(allow_nan=False),
    bytes=st.binary(max_size=4),
    top=st.lists(ALTERNATIVES, max_size=2).map(tuple),
)
ANSWERS = st.builds(
    CachedAnswer,
    text=st.text(st.characters(), max_size=600),
    finish_reason=st.sampled_from(FinishReason),
    usage=st.builds(Usage, prompt_tokens=st.integers(0, 10**9), completion_tokens=st.integers(0, 10**9)),
    backend=st.text(max_size=8),
    logprobs=st.lists(TOKENS, max_size=3).map(tuple),
    model=st.text(max_size=8),
    policy=st.text(max_size=8),
    took_ms=st.floats(0, 1e9),
)


@given(given=ANSWERS)
def test_what_is_decoded_is_what_was_encoded_and_its_length_says_little(given):
    data = encoded(given)
    assert decoded(data) == given
    assert len(data) % 256 == 0


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"null", b'{"usage": {}, "finish_reason": "stop"}'])
def test_what_another_version_encoded_is_no_answer(data):
    assert decoded(data) is None


def test_an_answer_outlives_the_client_and_its_process(path):
    with closing(DiskCache(path)) as first:
        first.put(cleared(), answer())
    code = (
        "import sys; from pathlib import Path; from tests.router.test_disk import *\n"
        "print(DiskCache(Path(sys.argv[1])).get(cleared()).text)"
    )
    found = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == WORDS


def test_only_its_owner_can_read_the_files(cache, path):
    cache.put(cleared(), answer())
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert {file.name for file in path.parent.iterdir()} >= {"answers.db", "answers.key"}


def test_a_key_that_others_can_read_is_refused_with_what_to_do(path):
    DiskCache(path).close()
    path.with_suffix(".key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        DiskCache(path)


def test_a_file_that_is_no_key_is_refused_and_left_as_it_is(path):
    key = path.with_suffix(".key")
    key.write_text("something else\n")
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="no key of an answer cache"):
        DiskCache(path)
    assert key.read_text() == "something else\n"


@pytest.mark.parametrize("limits", [{"size": 1000}, {"max_age_s": 0.0}])
def test_a_limit_that_is_too_small_is_refused(path, limits):
    with pytest.raises(ConfigError):
        DiskCache(path, **limits)


def test_both_methods_require_a_clearance_for_the_cache(cache):
    for wrong in (cleared(purpose=Purpose.ANSWER), request()):
        with pytest.raises(PrivacyViolation):
            cache.get(wrong)
        with pytest.raises(PrivacyViolation):
            cache.put(wrong, answer())
    assert cache.status().entries == 0


def test_no_text_is_in_any_byte_of_the_files_neither_open_nor_closed_nor_cleared(path):
    with closing(DiskCache(path)) as cache:
        for number in range(50):
            cache.put(cleared(request(f"{PROMPT} {number}", tenant="Tlaloc", task="Xolotl")), answer(model="Mictlan"))
        assert cache.get(cleared(request(f"{PROMPT} 7", tenant="Tlaloc", task="Xolotl"))) is not None
        seen = [bytes_of(path.parent)]
        assert b"-wal" in os.listdir(os.fsencode(path.parent))[0] or len(list(path.parent.iterdir())) > 2
    seen.append(bytes_of(path.parent))
    with closing(DiskCache(path)) as cache:
        assert cache.clear() == 50
        seen.append(bytes_of(path.parent))
    for data in seen:
        for word in ("Quetzalcoatl", "Popocatepetl", "Tlaloc", "Xolotl", "Mictlan", "edge"):
            assert word.encode() not in data
            assert word.encode("utf-16-le") not in data


def test_the_names_of_one_request_differ_from_key_to_key(tmp_path):
    names = []
    for number in range(2):
        with closing(DiskCache(tmp_path / f"{number}.db")) as cache:
            cache.put(cleared(), answer())
        with closing(sqlite3.connect(tmp_path / f"{number}.db")) as db:
            names.append(db.execute("SELECT name FROM answers").fetchone()[0])
    assert len(names[0]) == 32
    assert names[0] != names[1], "a name that needs no key can be guessed from a dictionary"


def test_one_answer_is_never_encrypted_twice_alike(cache, path):
    sealed = set()
    for _ in range(20):
        cache.put(cleared(), answer())
        with closing(sqlite3.connect(path)) as db:
            sealed.add(db.execute("SELECT sealed FROM answers").fetchone()[0])
    assert len({one[:16] for one in sealed}) == len({one[16:28] for one in sealed}) == len(sealed) == 20


def test_under_another_key_nothing_is_found(path):
    with closing(DiskCache(path)) as cache:
        cache.put(cleared(), answer())
    path.with_suffix(".key").unlink()
    with closing(DiskCache(path)) as cache:
        assert cache.get(cleared()) is None
        cache.put(cleared(), answer("new"))
        assert cache.get(cleared()).text == "new"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE answers SET name = (SELECT name FROM answers a WHERE a.rowid != answers.rowid) || x''",
        "UPDATE answers SET stored = stored + 1",
        "UPDATE answers SET sealed = substr(sealed, 1, 40)",
        "UPDATE answers SET sealed = substr(sealed, 1, 10)",
        "UPDATE answers SET sealed = x''",
        "UPDATE answers SET sealed = substr(sealed, 1, length(sealed) - 1) || x'00'",
    ],
)
def test_an_entry_that_was_changed_or_moved_is_a_miss_and_removed(cache, path, caplog, change):
    asked = [cleared(request(text)) for text in ("one", "two")]
    for one in asked:
        cache.put(one, answer())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        if "name =" in change:
            (first, one), (second, two) = db.execute("SELECT name, sealed FROM answers").fetchall()
            db.executemany("UPDATE answers SET sealed = ? WHERE name = ?", [(two, first), (one, second)])
        else:
            db.execute(change)
    assert [cache.get(one) for one in asked] == [None, None]
    assert cache.status().entries == 0
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1, "it is logged once"
    assert WORDS not in caplog.text


def test_an_old_answer_is_a_miss_and_gone_from_the_file(path):
    now = [1_000_000.0]
    with closing(DiskCache(path, max_age_s=10.0, clock=lambda: now[0])) as cache:
        cache.put(cleared(), answer())
        now[0] += 9.0
        assert cache.get(cleared()) == answer()
        now[0] += 1.0
        assert cache.get(cleared()) is None
        assert cache.status().entries == 0
        cache.put(cleared(), answer())
        now[0] += 11.0
        cache.put(cleared(request("another")), answer())
        assert cache.status().entries == 1
    now[0] += 11.0
    with closing(DiskCache(path, max_age_s=10.0, clock=lambda: now[0])) as cache:
        assert cache.status().entries == 0, "at the start, too"


def test_an_answer_from_the_future_is_a_miss(path):
    now = [1_000_000.0]
    with closing(DiskCache(path, clock=lambda: now[0])) as cache:
        cache.put(cleared(), answer())
        now[0] -= 30.0
        assert cache.get(cleared()) is not None, "a clock may be set back a little"
        now[0] -= 3600.0
        assert cache.get(cleared()) is None


def test_the_file_is_bounded_and_the_answers_used_last_stay(path):
    now = [1_000_000.0]
    with closing(DiskCache(path, size=1 << 20, clock=lambda: now[0])) as cache:
        for number in range(400):
            now[0] += 1.0
            cache.put(cleared(request(str(number))), answer("x" * 5000))
            assert cache.get(cleared(request("0"))) is not None, number
            assert size_of(path) <= 1 << 20
        assert cache.get(cleared(request("1"))) is None
        assert cache.get(cleared(request("399"))) is not None
        assert cache.status().entries > 80
        cache.put(cleared(request("large")), answer("x" * 200_000))
        assert cache.get(cleared(request("large"))) is None, "no answer takes more than an eighth"
        assert cache.status().entries > 80


def test_a_pipe_is_neither_a_cache_nor_a_key_and_is_not_waited_for(path, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with closing(DiskCache(pipe, key_file=path.with_suffix(".key"))) as cache:
        cache.put(cleared(), answer())
        assert cache.get(cleared()) is None
    with pytest.raises(ConfigError, match="is no key"):
        DiskCache(path, key_file=pipe)


def test_savings_add_up_over_clients(path):
    for _ in range(2):
        with closing(DiskCache(path)) as cache:
            cache.book(Savings(hits=1, spend=5), "USD")
            cache.book(Savings(misses=3, prompt_tokens=7))
    with closing(DiskCache(path)) as cache:
        assert cache.status().savings == {"USD": Savings(hits=2, spend=10), "": Savings(misses=6, prompt_tokens=14)}
        cache.clear()
        assert cache.status().savings == {}


@pytest.mark.parametrize("content", [b"my notes\n", b"SQLite format 3\0" + bytes(200)])
def test_a_file_of_another_program_is_left_as_it_is(path, content, caplog):
    path.write_bytes(content)
    with closing(DiskCache(path)) as cache:
        cache.put(cleared(), answer())
        assert cache.get(cleared()) is None
        with pytest.raises(ConfigError, match="not an answer cache"):
            cache.status()
    assert path.read_bytes() == content
    assert "not an answer cache" in caplog.text


def test_a_folder_that_cannot_be_made_costs_no_request(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with closing(DiskCache(tmp_path / "file" / "answers.db")) as cache:
        cache.put(cleared(), answer())
        assert cache.get(cleared()) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("how", ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_a_lock_of_another_process_delays_one_request_by_a_little(path, how):
    with closing(DiskCache(path)) as cache:
        cache.put(cleared(), answer())
    with closing(sqlite3.connect(path, isolation_level=None)) as other, closing(DiskCache(path)) as cache:
        if "BEGIN" not in how:
            cache.close()
        other.execute(how)
        if "BEGIN" not in how:
            other.execute("DELETE FROM savings")
            cache = DiskCache(path)
        began = time.monotonic()
        for number in range(200):
            cache.put(cleared(request(str(number))), answer())
            assert cache.get(cleared(request(str(number)))) is None
        assert time.monotonic() - began < 1.5
        cache.close()


def test_a_cache_that_is_closed_answers_nothing(cache):
    cache.put(cleared(), answer())
    cache.close()
    cache.close()
    cache.put(cleared(), answer())
    assert cache.get(cleared()) is None


def _filled(path: Path) -> list[Cleared]:
    asked = [cleared(request(str(number))) for number in range(12)]
    with closing(DiskCache(path)) as cache:
        for number, one in enumerate(asked):
            cache.put(one, answer(f"answer {number}"))
    return asked


def _still_right(path: Path, asked: list[Cleared]) -> None:
    """Whatever happened to the files: each answer is right or missing, and the cache goes on, if it is ours."""
    with closing(DiskCache(path)) as cache:
        for number, one in enumerate(asked):
            assert cache.get(one) in (None, answer(f"answer {number}"))
        cache.put(asked[0], answer("new"))
        assert cache.get(asked[0]) in (None, answer("new"), answer("answer 0"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=40), data=st.data())
def test_garbled_bytes_and_truncation_give_no_wrong_answer_and_no_error(tmp_path_factory, places, data):
    path = tmp_path_factory.mktemp("garbled") / "answers.db"
    asked = _filled(path)
    content = bytearray(path.read_bytes())
    for place, change in places:
        content[min(len(content) - 1, int(place * len(content)))] ^= change
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    _still_right(path, asked)


def test_a_damaged_file_begins_anew_once_nobody_else_uses_it(path, caplog):
    asked = _filled(path)
    content = bytearray(path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    path.write_bytes(content)
    _still_right(path, asked)
    with closing(DiskCache(path)) as cache:
        cache.put(asked[1], answer())
        assert cache.get(asked[1]) == answer()
    assert "begins anew" in caplog.text


def test_a_file_whose_tables_are_damaged_begins_anew(path, caplog):
    """SQLite's message quotes them, and `sqlite3` cannot decode it."""
    asked = _filled(path)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xc5ABLE"))
    _still_right(path, asked)
    assert "begins anew" in caplog.text


def test_a_damaged_file_that_another_client_uses_is_not_deleted(path):
    asked = _filled(path)
    with closing(DiskCache(path)):
        content = bytearray(path.read_bytes())
        content[100:] = os.urandom(len(content) - 100)
        path.write_bytes(content)
        with closing(DiskCache(path)) as second:
            assert second.get(asked[0]) is None
        assert path.read_bytes() == bytes(content)


class Machine(RuleBasedStateMachine):
    """A cache on disk against a dictionary: it may lose answers, and never invents or mixes them up."""

    numbers = itertools.count()
    TEXTS, TENANTS, TAGS, SAMPLINGS = (
        "ab",
        (None, "None", "x"),
        ((), ("a",), ("a", "b")),
        (Sampling(), Sampling(top_k=2), Sampling(presence_penalty=0.5), Sampling(frequency_penalty=0.5)),
    )
    REQUESTS = st.builds(
        lambda text, tenant, tags, sampling, tokens: request(
            text, tenant=tenant, privacy=frozenset(tags), sampling=sampling, max_tokens=tokens
        ),
        st.sampled_from(TEXTS),
        st.sampled_from(TENANTS),
        st.sampled_from(TAGS),
        st.sampled_from(SAMPLINGS),
        st.sampled_from((1, 2)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.path = Machine.folder / str(next(Machine.numbers)) / "answers.db"
        self.now = 1e6
        self.model: dict[Request, tuple[float, CachedAnswer]] = {}
        self.cache = self._open()

    def _open(self) -> DiskCache:
        return DiskCache(self.path, size=1 << 20, max_age_s=100.0, clock=lambda: self.now)

    @rule(asked=REQUESTS, text=st.text(max_size=20), many=st.sampled_from((1, 1, 3000)))
    def put(self, asked, text, many) -> None:
        given = answer(text * many)
        self.cache.put(cleared(asked), given)
        if len(encoded(given)) < (1 << 20) // 8:
            self.model[asked] = self.now, given
        else:
            self.model.pop(asked, None)

    @rule(asked=REQUESTS)
    def get(self, asked) -> None:
        found = self.cache.get(cleared(replace(asked, request_id="other")))
        stored, given = self.model.get(asked, (0.0, None))
        assert found is None or (found == given and self.now - stored < 100.0)
        if len(self.model) < 8 and given is not None and len(given.text) < 1000 and self.now - stored < 99.0:
            assert found == given, "there was room for it"

    @rule(seconds=st.sampled_from((1.0, 60.0)))
    def wait(self, seconds) -> None:
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        self.cache.close()
        self.cache = self._open()

    @invariant()
    def bounded(self) -> None:
        assert size_of(self.path) <= 1 << 20

    def teardown(self) -> None:
        self.cache.close()


def test_it_behaves_like_a_dictionary_that_forgets(tmp_path):
    Machine.folder = tmp_path
    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))


HAMMER = """
import json, random, sys, time
from pathlib import Path
from tests.router.test_disk import *
path, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
draw, hits = random.Random(seed), 0
asked = [cleared(request(str(number))) for number in range(40)]
cache = DiskCache(path, size=1 << 20)
print("ready", flush=True)
end = time.monotonic() + seconds
while time.monotonic() < end:
    number = draw.randrange(len(asked))
    if draw.random() < 0.4:
        cache.put(asked[number], answer(f"answer {number} " + "x" * draw.randrange(9000)))
    elif (found := cache.get(asked[number])) is not None:
        assert found.text.startswith(f"answer {number} "), found.text[:20]
        hits += 1
cache.close()
print(hits, flush=True)
"""


def _hammer(path: Path, seed: int, seconds: float) -> subprocess.Popen:
    arguments = [sys.executable, "-c", HAMMER, str(path), str(seed), str(seconds)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_hammer_one_file_and_are_killed_leave_right_answers(path):
    """Two processes run to the end; meanwhile others are killed with SIGKILL in the middle of their writes."""
    steady = [_hammer(path, seed, 1.5) for seed in (1, 2)]
    for seed in range(3, 6):
        victim = _hammer(path, seed, 60.0)
        assert victim.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0.05, 0.3))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    for process in steady:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert int(out.split()[-1]) > 0
        assert all("SQLITE_BUSY" in line for line in err.splitlines()), err
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(DiskCache(path)) as cache:
        found = [cache.get(cleared(request(str(number)))) for number in range(40)]
    assert sum(one is not None for one in found) > 10
    assert all(one is None or one.text.startswith(f"answer {number} ") for number, one in enumerate(found))


FULL = """
import json, resource, sys, time
from pathlib import Path
from tests.router.test_disk import *
path = Path(sys.argv[1])
asked = [cleared(request(str(number))) for number in range(300)]
with closing(DiskCache(path)) as cache:
    cache.put(asked[0], answer("answer 0"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))  # from now on files do not grow further
    began = time.monotonic()
    for number, one in enumerate(asked):
        cache.put(one, answer(f"answer {number}" + " " * 3000))
    found = [cache.get(one) for one in asked]
print(json.dumps([time.monotonic() - began, [one and one.text.strip() for one in found]]))
"""


def test_a_full_disk_costs_no_request_and_what_is_stored_stays(path):
    done = subprocess.run([sys.executable, "-c", FULL, path], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, found = json.loads(done.stdout)
    assert seconds < 5.0
    assert found[0] == "answer 0"
    assert any(one is None for one in found), "the disk was not full"
    assert all(one in (None, f"answer {number}") for number, one in enumerate(found))
    assert done.stderr.count("is not written to") == 1


def test_threads_may_share_one_cache(cache):
    asked = [cleared(request(str(number))) for number in range(20)]
    wrong: list[object] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(100):
            number = draw.randrange(20)
            cache.put(asked[number], answer(f"answer {number}"))
            if (found := cache.get(asked[number])) not in (None, answer(f"answer {number}")):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.status().entries == 20


def test_no_two_of_many_requests_share_an_answer(cache):
    parts = itertools.product("ab", (None, "x"), ((), ("a",)), (Sampling(), Sampling(seed=1)), (None, 0))
    asked = [
        request(text, tenant=tenant, privacy=frozenset(tags), sampling=sampling, logprobs=logprobs)
        for text, tenant, tags, sampling, logprobs in parts
    ]
    for number, one in enumerate(asked):
        cache.put(cleared(one), answer(str(number)))
    assert [cache.get(cleared(one)).text for one in asked] == [str(number) for number in range(len(asked))]
