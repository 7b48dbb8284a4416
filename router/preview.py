"""What a policy would do with a request: the decision, and what the cloud would see. Nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.request import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One request under one policy. The texts that the cloud would see never show in `repr`."""

    decision: Decision
    declared: frozenset[str] = frozenset()
    """The privacy tags that the app set; detectors set the others of `decision.tags`."""
    allowed: frozenset[Location] = frozenset()
    """Where the request may go, whatever the rules say."""
    pseudonymised: bool = False
    """The cloud would see pseudonyms in place of what the detectors found."""
    replaced: Mapping[str, int] = field(default_factory=dict)
    """Type of pseudonym, such as `EMAIL` -> how many different ones the cloud would see."""
    shown: tuple[str, ...] | None = field(default=None, repr=False)
    """The text of each message as the cloud would see it; None if the request may not go there.

    Pseudonyms of a session are the same in each of its requests; without a session they are new in each.
    """
