"""Accountants: bounds that agree with each other and with a closed form, and budgets that are never exceeded."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.privacy.accounting import Accountant, Schedule, Spent, calibrated, epsilon, spent

pytest.importorskip("opacus")
pytest.importorskip("dp_accounting")

SCHEDULE = Schedule(units=2000, batch=100, steps=60, delta=1e-5)


def test_the_accountants_of_opacus_and_of_google_agree() -> None:
    bounds = {each: epsilon(each, SCHEDULE, 1.1) for each in Accountant}
    assert bounds[Accountant.PRV] == pytest.approx(bounds[Accountant.PLD], rel=0.02)
    assert bounds[Accountant.PLD] < bounds[Accountant.RDP] < 1.3 * bounds[Accountant.PLD]


def test_one_step_on_all_data_is_the_gaussian_mechanism() -> None:
    """Its exact curve is known: Balle and Wang 2018, theorem 8."""
    one, noise = Schedule(units=500, batch=500, steps=1, delta=1e-4), 2.0

    def delta(bound: float) -> float:
        upper, lower = 1 / (2 * noise) - bound * noise, -1 / (2 * noise) - bound * noise
        normal = [0.5 * math.erfc(-each / math.sqrt(2)) for each in (upper, lower)]
        return normal[0] - math.exp(bound) * normal[1]

    exact = next(bound / 1000 for bound in range(10_000) if delta(bound / 1000) < one.delta)
    for each in (Accountant.PRV, Accountant.PLD):
        assert exact - 0.002 <= epsilon(each, one, noise) <= exact + 0.02


@given(target=st.floats(0.3, 20), batch=st.integers(1, 300), steps=st.integers(1, 100))
@settings(max_examples=5, deadline=None)
def test_a_calibrated_run_stays_within_its_budget_and_wastes_little(target: float, batch: int, steps: int) -> None:
    schedule = Schedule(units=300, batch=batch, steps=steps, delta=1e-4)
    noise = calibrated(Accountant.RDP, schedule, target)
    bound = epsilon(Accountant.RDP, schedule, noise)
    assert bound <= target
    assert bound > 0.9 * target or noise < 0.11


def test_the_bound_is_checked_by_a_second_accountant() -> None:
    for accountant, check in [(Accountant.PRV, Accountant.PLD), (Accountant.PLD, Accountant.PRV)]:
        found = spent(accountant, SCHEDULE, 1.0)
        assert (found.accountant, found.check_accountant) == (accountant, check)
        assert found.check_epsilon == pytest.approx(found.epsilon, rel=0.02)


@pytest.mark.parametrize(("bound", "other", "believed"), [(2.0, 2.05, True), (2.0, 2.3, False), (2.3, 2.0, False)])
def test_accountants_that_contradict_each_other_are_not_believed(bound: float, other: float, *, believed: bool) -> None:
    found = Spent(epsilon=bound, accountant=Accountant.PRV, check_epsilon=other, check_accountant=Accountant.PLD)
    with contextlib.nullcontext() if believed else pytest.raises(ConfigError, match="contradict"):
        found.check()
    replace(found, accountant=Accountant.RDP, epsilon=9.0).check()  # looser, which is no contradiction


def test_a_delta_that_prv_does_not_resolve_is_refused() -> None:
    with pytest.raises(ConfigError, match="use accountant: rdp"):
        epsilon(Accountant.PRV, replace(SCHEDULE, delta=1e-15), 1.1)


@pytest.mark.parametrize("delta", [1 / 2000, 0.5, 0.0])
def test_a_delta_that_allows_to_publish_a_record_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="not below 1/2000"):
        Schedule(units=2000, batch=100, steps=60, delta=delta).check()


def test_a_batch_that_is_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 100 is larger than the data, 99"):
        Schedule(units=99, batch=100, steps=60, delta=1e-5).check()


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose a larger"):
        calibrated(Accountant.RDP, Schedule(units=100, batch=100, steps=10**9, delta=1e-6), 0.01)
