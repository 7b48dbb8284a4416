"""No local-only text leaves the device, and no text is reported: a client under generated policies and faults.

`python -m benchmarks leaks` runs twenty thousand requests and more; its `--shrink` searches for the shortest sequence
that leaks. HYBRID_TESTS_LEAK_CLIENTS sets the number of clients here, each with about 17 requests.
"""

from __future__ import annotations

import base64
import os
from urllib.parse import quote

import pytest

from hybrid_llm.router.privacy.detectors import DETECTORS
from tests.leaks.canaries import Canaries, leaked
from tests.leaks.machine import WORTH_SEEING, explore, happened
from tests.leaks.situations import KINDS, Plan, TagPlan, judge
from tests.leaks.texts import UNSEEN
from tests.leaks.witness import rendered

CLIENTS = int(os.environ.get("HYBRID_TESTS_LEAK_CLIENTS", "32"))
_ENOUGH = 400
"""From how many clients on every kind of fault is certain to be seen; of fewer a few may miss their moment."""
_FEW = 32
_MAY_MISS = 3


def test_nothing_local_only_leaves_and_no_text_is_reported():
    happened.clear()
    explore(CLIENTS, 1)
    if CLIENTS >= _FEW:
        missing = [name for name in WORTH_SEEING if not happened[name]]
        may_miss = 0 if CLIENTS >= _ENOUGH else _MAY_MISS
        assert len(missing) <= may_miss, f"never seen, so nothing was learnt of it: {missing}"
        assert happened["sent"] > happened["requests"] / 10


@pytest.mark.parametrize("offset", range(3))
@pytest.mark.parametrize(
    "told",
    [
        lambda text, _: text,
        lambda text, _: text.upper(),
        lambda text, _: text[::-1],
        lambda text, _: text[3:11],
        lambda text, _: quote(text, safe=""),
        lambda text, _: "".join(f"%{byte:02X}" for byte in text.encode()),
        lambda text, _: "".join(f"\\u{ord(c):04x}" for c in text),
        lambda text, _: text.encode().hex(),
        lambda text, offset: base64.b64encode(b"x" * offset + text.encode() + b"yz").decode(),
    ],
)
def test_a_canary_is_found_however_it_was_written_down(told, offset):
    source = Canaries(offset)
    for canary in (source.word(), *(source.value(kind) for kind in KINDS)):
        assert leaked([canary], f"x{told(canary, offset)}y") == [canary]
        assert leaked([canary], f"x{told(source.word(30), offset)}y") == []


def test_a_canary_is_found_in_bytes_and_in_whatever_an_object_leads_to():
    canary = Canaries(0).word()
    assert leaked([canary], b"\x00\xff" + canary.encode()) == [canary]
    assert leaked([canary], "\n".join(rendered({"deep": [(ValueError(canary),)]}, {}))) == [canary]


@pytest.mark.parametrize("kind", UNSEEN)
def test_a_value_is_found_where_it_is_planted_and_by_no_detector_where_none_should_see_it(kind):
    for seed in range(50):
        value = Canaries(seed).value(kind)
        assert list(DETECTORS[kind].find(f"abc , {value} , def"))
        assert not [name for name, each in DETECTORS.items() if list(each.find(UNSEEN[kind].format(value)))]


OPEN, HERE = frozenset({"edge", "cloud"}), frozenset({"edge"})


def test_the_judgement_by_plan_is_that_of_the_tags():
    plan = Plan(
        tags={
            "red": TagPlan(allow=HERE, detect=("credential",)),
            "amber": TagPlan(allow=OPEN, detect=("email",), hide=True),
            "green": TagPlan(allow=OPEN, cache=HERE),
        }
    )

    def verdict(declared: str, *planted: str):
        return judge(plan, frozenset(declared.split()), frozenset(planted))

    assert (verdict("").stay, verdict("").keep) == (False, True)
    assert verdict("red").stay
    assert verdict("", "credential").stay
    assert verdict("green", "email", "credential").stay
    assert verdict("", "email").hidden == {"email"}
    assert not verdict("", "email").keep
    assert verdict("amber").stay, "nothing is found to replace"
    assert not verdict("amber", "email").stay
    assert (verdict("green").stay, verdict("green").keep) == (False, False)
