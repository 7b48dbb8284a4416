"""A chat in which the cloud sees pseudonyms and the app its real addresses: `python examples/pseudonyms.py`."""

from own_backend import Echo

from hybrid_llm import HybridLLM, Location
from hybrid_llm.policies import parse_policy

POLICY = """\
version: 1
name: support
tags:
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, phone]}
"""

cloud = Echo()
with HybridLLM([cloud], parse_policy(POLICY, backends={"cloud": Location.CLOUD})) as llm:
    turns = []
    for text in ("Write to jane@example.org or call +1 202 555 0147.", "Is jane@example.org still right?"):
        turns.append({"role": "user", "content": text})
        reply = llm.generate(turns, session_id="chat-7")  # one session: the same pseudonyms in every turn
        turns.append({"role": "assistant", "content": reply.text})
        print(f"the cloud saw: {cloud.received[-1]}")
        print(f"the app got:   {reply.text}")
    llm.forget("chat-7")  # deletes the mapping from pseudonyms to values
    llm.generate("Write to jane@example.org.", session_id="chat-7")
    print(f"afterwards:    {cloud.received[-1]}")  # a new pseudonym
