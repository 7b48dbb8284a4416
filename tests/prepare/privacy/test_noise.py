"""Random numbers of a private tuning: of the right distribution, independent, and the same when a step is repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.privacy.noise import Draws, Purpose, Stream

KEY = bytes(range(32))


def test_noise_is_standard_normal() -> None:
    stats = pytest.importorskip("scipy.stats")
    drawn = Stream(KEY, 0, Purpose.NOISE).normal(200_000)
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs(drawn).max() > 4  # the tails are there


def test_numbers_of_one_draw_and_of_two_steps_are_uncorrelated() -> None:
    first, second = (Stream(KEY, step, Purpose.NOISE).normal(100_000) for step in (1, 2))
    for one, other in [(first, second), (first[1:], first[:-1]), (first[:50_000], first[50_000:])]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.015


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_any_count_can_be_drawn(count: int) -> None:
    assert len(Stream(KEY, 0, Purpose.NOISE).normal(count)) == count


def test_each_unit_takes_part_independently_with_the_rate() -> None:
    draws = Draws.seeded(7)
    sizes = [len(draws.sampled(step, 1000, 0.05)) for step in range(400)]
    assert np.mean(sizes) == pytest.approx(50, abs=1)
    assert np.std(sizes) == pytest.approx(np.sqrt(1000 * 0.05 * 0.95), rel=0.1)  # a fixed batch would have 0
    assert list(draws.sampled(0, 5, 1.0)) == [0, 1, 2, 3, 4]


def test_a_repeated_step_draws_the_same(tmp_path: Path) -> None:
    once, again = (Draws.kept(tmp_path / "noise.key") for _ in range(2))
    assert (once.sampled(3, 100, 0.3) == again.sampled(3, 100, 0.3)).all()
    assert (once.noise(3).normal(10) == again.noise(3).normal(10)).all()
    assert not (once.noise(3).normal(10) == once.noise(4).normal(10)).any()
    assert not (Draws.kept(tmp_path / "other.key").noise(3).normal(10) == once.noise(3).normal(10)).any()


def test_only_its_owner_reads_the_key_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "noise.key"
    Draws.kept(key)
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(key.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        Draws.kept(key)
