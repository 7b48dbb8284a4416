"""A step of private tuning: the clipped sum, noise in proportion to the norm, and other units and noise each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hybrid_llm.prepare.privacy.accounting import Schedule
from hybrid_llm.prepare.privacy.loop import Plan, make_step
from hybrid_llm.prepare.privacy.noise import Draws, Purpose, Stream
from hybrid_llm.prepare.privacy.units import Example, Unit

torch = pytest.importorskip("torch")

WIDTH = 40_000
UNITS: list[Unit] = [(Example((number, number)),) for number in range(200)]
SCHEDULE = Schedule(units=len(UNITS), batch=20, steps=10, delta=1e-4)


class Ones:
    """Adds 1 to each entry of the gradient for each unit, and records the units."""

    def __init__(self, weights: Any) -> None:
        self._weights = weights
        self.units: list[Unit] = []

    def add(self, units: Sequence[Unit]) -> None:
        self.units = list(units)
        self._weights.grad = torch.full_like(self._weights, float(len(units)))


def step(number: int, *, noise: float = 1.0, norm: float = 1.0, draws: Draws | None = None) -> tuple[Any, list[Unit]]:
    """The gradient that the optimizer gets in a step, and the units that took part."""
    weights = torch.zeros(WIDTH, requires_grad=True)
    clipped, optimizer = Ones(weights), torch.optim.SGD([weights], lr=1.0)
    plan = Plan(schedule=SCHEDULE, noise_multiplier=noise, max_grad_norm=norm, learning_rate=1.0)
    make_step(number, [weights], optimizer, clipped, UNITS, plan, draws or Draws.seeded(3))
    return -weights.detach().numpy(), clipped.units


@pytest.mark.parametrize(("noise", "norm"), [(0.7, 1.0), (1.0, 0.25), (3.0, 4.0)])
def test_the_noise_has_the_deviation_that_is_accounted_for(noise: float, norm: float) -> None:
    """Of the sum, before it is divided by the size of a batch."""
    found, units = step(1, noise=noise, norm=norm)
    assert (found * SCHEDULE.batch).std() == pytest.approx(noise * norm, rel=0.02)
    assert (found * SCHEDULE.batch).mean() == pytest.approx(len(units), abs=5 * noise * norm / WIDTH**0.5)


def test_each_step_has_noise_and_units_of_its_own_and_a_repeated_one_the_same() -> None:
    (first, some), (second, others), (again, same) = step(1), step(2), step(1)
    assert some != others
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert (some, first.tolist()) == (same, again.tolist())
    assert 5 <= len(some) <= 40
    assert step(1, draws=Draws.seeded(4))[1] != some


def test_the_noise_of_a_step_says_nothing_of_its_units() -> None:
    drawn = [Stream(bytes(32), 1, purpose).uniform(1000) for purpose in Purpose]
    assert not (drawn[0] == drawn[1]).any()
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.15
