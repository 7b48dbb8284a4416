"""How much privacy a tuning spends: epsilon at a delta, by one accountant and checked by another.

The mechanism is DP-SGD (Abadi et al. 2016, arXiv:1607.00133): steps of the Gaussian mechanism on Poisson samples. Data
sets are neighbours if one has one unit more than the other (add or remove). Accountants: `prv` (Gopi et al. 2021,
arXiv:2106.02848) and `rdp` (Mironov et al. 2019, arXiv:1908.10530) of opacus, `pld` (Doroshenko et al. 2022,
arXiv:2207.04380) of Google's dp-accounting. All give upper bounds; rdp is the loosest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

_LEAST_NOISE, _MOST_NOISE = 0.1, 1e4
_PRECISION: Final = 2e-3
_RELATIVE, _ABSOLUTE = 0.05, 0.02
"""How far the bounds of prv and pld may differ: opacus computes prv within 0.01, dp-accounting rounds up."""


class Accountant(StrEnum):
    """Which bound is computed."""

    PRV = "prv"
    RDP = "rdp"
    PLD = "pld"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is public about a tuning.

    Attributes:
        units: how many units of privacy, records or persons, the data has.
        batch: how many of them take part in a step on average.
        steps: how many steps are made.
        delta: the probability with which the bound may fail.
    """

    units: int
    batch: int
    steps: int
    delta: float

    @property
    def rate(self) -> float:
        """The probability of a unit to take part in a step."""
        return self.batch / self.units

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ConfigError: there is less data than one batch, or delta allows to publish whole records.
        """
        if self.batch > self.units:
            message = f"a batch of {self.batch} is larger than the data, {self.units}: choose a smaller `batch`"
            raise ConfigError(message)
        if not 0 < self.delta < 1 / self.units:
            message = (
                f"delta {self.delta:g} is not below 1/{self.units}, the share of one unit of the data: a mechanism that"
                f" publishes one unit as it is would pass; choose a `delta` such as {0.1 / self.units:.1g}"
            )
            raise ConfigError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The bound after a number of steps, by the accountant that was asked for, and by another."""

    epsilon: float
    accountant: Accountant
    check_epsilon: float
    check_accountant: Accountant

    def check(self) -> None:
        """Compare the two bounds; that of rdp is valid too where it is far above the other.

        Raises:
            ConfigError: they contradict each other, so that neither can be relied on.
        """
        upper = self.accountant is Accountant.RDP or _within(self.epsilon, self.check_epsilon)
        if not (math.isfinite(self.epsilon) and upper and _within(self.check_epsilon, self.epsilon)):
            message = (
                f"the accountants contradict each other: epsilon {self.epsilon:.4g} by {self.accountant},"
                f" {self.check_epsilon:.4g} by {self.check_accountant}; use accountant: rdp, or a larger `delta`"
            )
            raise ConfigError(message)


@cache
def epsilon(accountant: Accountant, schedule: Schedule, noise_multiplier: float) -> float:
    """The epsilon of *schedule* at its delta; the noise has *noise_multiplier* times the clipping norm as deviation.

    Raises:
        ConfigError: the accountant is not installed.
    """
    return _BOUNDS[accountant](schedule, noise_multiplier)


def calibrated(accountant: Accountant, schedule: Schedule, target_epsilon: float) -> float:
    """The least noise multiplier, within 0.2 %, whose epsilon is at most *target_epsilon*.

    Raises:
        ConfigError: no reasonable noise reaches the target.
    """
    low, high = _LEAST_NOISE, 1.0
    while epsilon(accountant, schedule, high) > target_epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            message = (
                f"no noise multiplier up to {_MOST_NOISE:g} keeps epsilon within {target_epsilon:g}: choose a larger"
                " `target_epsilon` or fewer `epochs`"
            )
            raise ConfigError(message)
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if epsilon(accountant, schedule, middle) > target_epsilon:
            low = middle
        else:
            high = middle
    return high


def spent(accountant: Accountant, schedule: Schedule, noise_multiplier: float) -> Spent:
    """The bound by *accountant*, checked by another: pld, or prv where pld was asked for.

    Raises:
        ConfigError: the two contradict each other, so that neither can be relied on.
    """
    check = Accountant.PRV if accountant is Accountant.PLD else Accountant.PLD
    found = Spent(
        epsilon=epsilon(accountant, schedule, noise_multiplier),
        accountant=accountant,
        check_epsilon=epsilon(check, schedule, noise_multiplier),
        check_accountant=check,
    )
    found.check()
    return found


def _within(bound: float, other: float) -> bool:
    return bound <= other * (1 + _RELATIVE) + _ABSOLUTE


def _opacus(accountant: Accountant) -> Callable[[Schedule, float], float]:
    def bound(schedule: Schedule, noise_multiplier: float) -> float:
        try:
            from opacus.accountants import create_accountant
        except ImportError as error:
            raise ConfigError(f"private tuning needs opacus: {install_hint('prepare')}") from error
        made = create_accountant(str(accountant))
        made.history = [(noise_multiplier, schedule.rate, schedule.steps)]
        with warnings.catch_warnings():  # about orders of rdp at the edge of its table, where the bound is still valid
            warnings.simplefilter("ignore")
            try:
                return float(made.get_epsilon(schedule.delta))
            except ValueError as error:
                message = f"{accountant} cannot compute epsilon at delta {schedule.delta:g}: use accountant: rdp"
                raise ConfigError(message) from error

    return bound


def _pld(schedule: Schedule, noise_multiplier: float) -> float:
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError as error:
        raise ConfigError(f"private tuning needs dp-accounting: {install_hint('prepare')}") from error
    step = dp_accounting.PoissonSampledDpEvent(schedule.rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    made = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    return float(made.compose(step, schedule.steps).get_epsilon(schedule.delta))


_BOUNDS: Final[Mapping[Accountant, Callable[[Schedule, float], float]]] = {
    Accountant.PRV: _opacus(Accountant.PRV),
    Accountant.RDP: _opacus(Accountant.RDP),
    Accountant.PLD: _pld,
}
