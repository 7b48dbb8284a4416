"""The cache of a node: bounded, shared by processes, and nothing in use is ever deleted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.models.cache import ModelCache
from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.core.errors import ConfigError

USE = """
import sys
from pathlib import Path
from hybrid_llm.backends.models.cache import ModelCache
with ModelCache(Path(sys.argv[1])).entry(sys.argv[2], 10):
    print("in use", flush=True)
    sys.stdin.read()
"""


def digest(number):
    return f"{number:064x}"


def fill(cache, number, size):
    with cache.entry(digest(number), size) as folder:
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "weights").write_bytes(bytes(size))
    return folder


@settings(max_examples=30, deadline=None)
@given(
    most=st.integers(50, 300),
    steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12),
)
def test_it_stays_within_its_bound_and_what_is_in_use_stays(most, steps):
    """Contents of 50 to 100 bytes come and stay in use or not: the sum never exceeds the bound, no user loses one."""
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        cache, held = ModelCache(Path(root), most), {}
        for number, hold in steps:
            size = 50 + 10 * number
            try:
                folder = fill(cache, number, size)
            except NoSpace as error:
                users = sum(50 + 10 * one for one in held if one != number)
                assert users + size > most
                assert "--model-cache-size" in str(error)
                continue
            if hold and number not in held:
                held[number] = stack.enter_context(cache.entry(digest(number), size))
            assert all((path / "model" / "weights").is_file() for path in [folder, *held.values()])
            weights = [path.stat().st_size for path in Path(root).glob("*/model/weights")]
            assert sum(weights) <= most


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = ModelCache(tmp_path, 300)
    folders = [fill(cache, number, 100) for number in range(3)]
    fill(cache, 0, 100)
    fill(cache, 3, 100)
    assert [folder.exists() for folder in folders] == [True, False, True]


def test_what_another_process_uses_stays_until_it_dies(tmp_path):
    cache = ModelCache(tmp_path, 100)
    folder = fill(cache, 1, 60)
    command = [sys.executable, "-c", USE, str(tmp_path), digest(1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"in use\n"
        with pytest.raises(NoSpace, match="in use"):
            fill(cache, 2, 60)
        assert (folder / "model" / "weights").is_file()
        process.kill()
    fill(cache, 2, 60)
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--model-cache DIR"), ModelCache(tmp_path / "file").entry(digest(1), 1):
        pass
