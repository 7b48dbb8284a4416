"""A privacy detector and a hook of your own: `python examples/own_detector.py`.

A detector only finds; the policy decides what follows. If a detector raises, the request stays on the device.
"""

import re
from collections.abc import Iterator

from hybrid_llm import HybridLLM, RequestEvent
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import KNOWN_DETECTORS, parse_policy
from hybrid_llm.router.privacy.detectors import Finding

POLICY = """\
version: 1
name: house
tags:
  internal: {allow: [edge], detect: [project_name]}
rules:
  - prefer: [edge]
"""


class ProjectNames:
    """Finds the code names of our projects, which start with `PRJ-`."""

    name = "project_name"

    def find(self, text: str) -> Iterator[Finding]:
        """Yield each code name."""
        for match in re.finditer(r"\bPRJ-[A-Z]{3,12}\b", text):
            yield Finding(kind=self.name, start=match.start(), end=match.end())


def log(event: RequestEvent) -> None:
    """Called once per request, when it is over; the event contains no text."""
    print(f"{event.backend or event.error}: tags {sorted(event.decision.tags)}, {event.timings.total_ms:.0f} ms")


edge = EdgeBackend(EdgeConfig())
detectors = KNOWN_DETECTORS | {ProjectNames.name}
policy = parse_policy(POLICY, backends={edge.name: edge.location}, detectors=detectors)
with HybridLLM([edge], policy, detectors=[ProjectNames()], hooks=[log]) as llm:
    llm.generate("Is this review positive? 'PRJ-HERON is a delight.'", max_tokens=16)
    llm.generate("Is this review positive? 'A delight.'", max_tokens=16)
