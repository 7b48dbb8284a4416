"""The schemas for editors say what the strict readers say: of every key, of every limit, and of generated files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.fields import Kind, ListOf, MapOf, OneOf, Table, Whole
from hybrid_llm.core.request import Location
from hybrid_llm.lab.casefile import cases_schema, cases_table, parse_cases
from hybrid_llm.policies import KNOWN_DETECTORS, builtin_policy, parse_policy
from hybrid_llm.policies.document import POLICY as POLICY_TABLE
from hybrid_llm.policies.document import policy_schema
from hybrid_llm.policies.language.schema import Objectives, Schema
from tests.checks.schemas import stale
from tests.lab.test_cases import CASES as BROKEN_CASES
from tests.policies.test_errors import CASES as BROKEN_POLICIES

PLACES = {place.value: place for place in Location}
ROOT = Path(__file__).resolve().parents[2]
POLICY, CASES = Draft202012Validator(policy_schema()), Draft202012Validator(cases_schema())
HERE = Draft202012Validator(policy_schema(PLACES))
"""As for the two backends that the tests have: then a rule may name no other."""
FILES = sorted((ROOT / "policies" / "builtin").glob("*.yaml")) + sorted((ROOT / "examples").rglob("policy*.yaml"))
LEXICAL = ("not a character", "not YAML", "anchors", "YAML tags", "directives", "deep", "not read")
LEXICAL += ("write true", "the first is on line", "another document", "quotes", "ambiguous in YAML")
SEMANTIC = ("never reached", "two currencies", "never matches", "is less than 1ms", "is more than 24h", "version 1")
OF_THE_POLICY = ("did you mean `phi`", "no `prefer` or `rank` rule", "did you mean `the battery", "did you mean `edge`")
OF_THE_POLICY += ("did you mean `device`", "no signal of")


def groups(schema: object) -> Iterator[dict]:
    """Every group of keys in a schema, wherever it stands."""
    if isinstance(schema, dict):
        if "title" in schema and "properties" in schema:
            yield schema
        for part in schema.values():
            yield from groups(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from groups(part)


@pytest.mark.parametrize("schema", [POLICY.schema, CASES.schema], ids=["policy", "cases"])
def test_it_is_a_schema_of_the_draft_that_it_names(schema):
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_the_checked_in_schemas_are_what_the_code_says_now():
    assert stale() == []


def tables(kind: Kind) -> Iterator[Table]:
    """Every table of keys in a kind, wherever it stands."""
    inner: tuple[Kind, ...] = ()
    match kind:
        case Table():
            yield kind
            inner = tuple(key.kind for key in kind.keys)
        case ListOf(item=one) | MapOf(value=one):
            inner = (one,)
        case OneOf():
            inner = kind.kinds
    for one in inner:
        yield from tables(one)


CASES_TABLE = cases_table(Schema(PLACES, Objectives()), PLACES)
BOTH = [(POLICY.schema, POLICY_TABLE), (CASES.schema, CASES_TABLE)]


@pytest.mark.parametrize(("schema", "table"), BOTH, ids=["policy", "cases"])
def test_every_key_of_the_language_is_described_and_no_other_is_allowed(schema, table):
    found = {group["title"]: group for group in groups(schema)}
    found[table.title] = schema
    names = {one.title for one in tables(table)}
    assert names == set(found) - {schema["title"]}
    for one in tables(table):
        assert tuple(found[one.title]["properties"]) == tuple(key.name for key in one.keys)
        assert found[one.title]["additionalProperties"] is False
        assert all(len(about["description"]) > 5 for about in found[one.title]["properties"].values())


def test_every_detector_signal_and_limit_is_that_of_the_readers():
    text = json.dumps(policy_schema())
    for name in KNOWN_DETECTORS:
        assert f'"{name}"' in text
    assert '"names"' in json.dumps(policy_schema(detectors={"names"}))
    schema = Schema(PLACES, Objectives())
    signals = cases_schema()["properties"]["base"]["properties"]["signals"]["properties"]
    for root in schema.roots:
        for name in schema.fields(root):
            assert f"`{root}.{name}`" in text
            given_there = root not in {"request", "objectives"} and name not in {"name", "location"}
            assert (f"{root}.{name}" in signals) is given_there
            assert not given_there or len(signals[f"{root}.{name}"]["description"]) > 10
    limits = [key for one in tables(POLICY_TABLE) for key in one.keys if isinstance(key.kind, Whole)]
    assert [key.name for key in limits] == ["retries", "failures"]
    for key in limits:
        (group,) = (g for g in groups(policy_schema()) if key.name in g["properties"])
        found = group["properties"][key.name]
        assert (found["minimum"], found["maximum"]) == (key.kind.least, key.kind.most)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_that_comes_with_the_library_is_valid(path):
    validator = CASES if path.name.endswith(".test.yaml") else POLICY
    assert list(validator.iter_errors(yaml.safe_load(path.read_text("utf-8")))) == []


def test_every_example_of_the_documentation_is_valid():
    page = (ROOT / "docs" / "policies.md").read_text("utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        validator = CASES if block.startswith("# clinic.test.yaml") else POLICY
        assert list(validator.iter_errors(yaml.safe_load(block))) == []


@pytest.mark.parametrize(("text", "message"), [(t, m) for t, _, m in BROKEN_POLICIES], ids=lambda v: str(v)[-40:])
def test_what_the_reader_of_policies_refuses_for_its_structure_the_schema_refuses(text, message):
    if any(part in message for part in (*LEXICAL, *SEMANTIC)):
        return
    assert not HERE.is_valid(yaml.safe_load(text)), message


@pytest.mark.parametrize(("text", "message"), BROKEN_CASES, ids=lambda v: str(v)[-40:])
def test_what_the_reader_of_cases_refuses_for_its_structure_the_schema_refuses(text, message):
    if any(part in message for part in (*LEXICAL, *OF_THE_POLICY)):
        return
    if "has no signal" in message or "did you mean `battery`" in message:
        assert not CASES.is_valid(yaml.safe_load(text))
    assert not CASES.is_valid(yaml.safe_load(text)), message


def some(*values: object, odd: float = 0.2) -> st.SearchStrategy:
    """Mostly one of *values*, sometimes what belongs nowhere."""
    wrong = st.sampled_from([None, True, -1, 7.5, "", " ", "word", [], {}, ["edge"], {"edge": 1}, "0ms", "10", "101%"])
    return st.integers(0, 99).flatmap(lambda n: wrong if n < odd * 100 else st.sampled_from(values))


TAG = st.fixed_dictionaries(
    {},
    optional={
        "allow": some(["edge"], ["edge", "cloud"], ["cloud"], [], ["edgy"], ["edge", "edge"]),
        "detect": some(["email"], ["email", "iban"], [], ["emial"]),
        "to_cloud": some("pseudonymise", "hide"),
        "cache": some(["edge"], ["cloud"], [], ["edge", "cloud"]),
    },
)
RULE = st.fixed_dictionaries(
    {},
    optional={
        "exclude": some("edge", ["cloud"], ["edge", "cloud"], "edgy"),
        "prefer": some(["cloud", "edge"], "edge", ["edge", "edge"]),
        "rank": some({"latency": 1.0}, {"cost": 0}, {"cost": 0, "energy": 2}, {}, {"speed": 1}, {"cost": -1}),
        "when": some("device.cpu_load > 0.5", "network.online", odd=0.1),
        "because": some("it is late", odd=0.1),
    },
)
DURATIONS = ("400ms", "10s", "1.5h", "0s", "0.0ms", "007us", "5 s", "ms")
DOCUMENTS = st.fixed_dictionaries(
    {"version": some(1, 2, odd=0.05), "name": some("clinic", odd=0.05)},
    optional={
        "tags": st.one_of(some({}), st.dictionaries(st.sampled_from(["phi", "x y"]), TAG, max_size=2)),
        "objectives": st.fixed_dictionaries(
            {},
            optional={
                "ttft": some(*DURATIONS),
                "deadline": some(*DURATIONS),
                "cost": some("0.02 USD", "0 USD", "1 usd", "5"),
                "budget": some("5 USD/day", "5 USD", "0.0 USD/day"),
            },
        ),
        "rules": st.one_of(some([], odd=0.5), st.lists(RULE, max_size=3)),
        "resilience": st.fixed_dictionaries(
            {},
            optional={
                "retries": some(0, 10, 11, "1"),
                "retry_budget": some("10%", "100%", "100.0%", "100.1%", "099%", "0%", "5"),
                "continue_streams": some(False, True),
                "breaker": st.fixed_dictionaries(
                    {}, optional={"failures": some(1, 1000, 0, 1001), "open": some(*DURATIONS)}
                ),
            },
        ),
        "wrong": st.just(1),
    },
)


def refused(document: object) -> list[str]:
    """What the reader refuses for its structure: places in JSON are places in YAML."""
    try:
        parse_policy(json.dumps(document))
    except PolicyError as error:
        return [str(one) for one in error.errors if not any(part in str(one) for part in SEMANTIC[:5])]
    return []


@settings(deadline=None)
@given(document=DOCUMENTS)
def test_schema_and_reader_agree_on_every_generated_policy(document):
    faults = refused(document)
    assert HERE.is_valid(document) is (not faults), faults or list(HERE.iter_errors(document))
    assert POLICY.is_valid(document) or faults


SITUATION = {
    "request": st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": some(5, -1),
            "tags": some(["phi"], [], "phi", ["phi", "phi"]),
            "tenant": some("a", "absent"),
            "deadline_ms": some("2s", 100.5),
            "has_tools": some(True, False),
            "text": some("words"),
            "max_token": st.just(1),
        },
    ),
    "signals": st.fixed_dictionaries(
        {},
        optional={
            "device.battery": some("10%", 0.5, "absent", "nan", "400ms"),
            "device.cpu_load": some("10%", "absent"),
            "cloud.rtt_ms": some("400ms", 12.5, "10%"),
            "edge.breaker": some("open", "ajar"),
            "edge.queue": some(3, "3"),
            "edge.location": st.just("cloud"),
            "network.online": some(True, "yes"),
        },
    ),
}
EXPECT = st.fixed_dictionaries(
    {},
    optional={
        "order": some(["edge", "cloud"], [], "edge", ["edge", "edge"]),
        "first": some("edge", ["edge"]),
        "excluded": some({"cloud": "phi"}, ["cloud"], {"cloud": ""}),
        "tags": some(["phi"], "phi"),
    },
)
CASE = st.fixed_dictionaries({"name": some("one", odd=0.05)}, optional={**SITUATION, "expect": EXPECT})
CASE_FILES = st.fixed_dictionaries(
    {"version": some(1, 2, odd=0.05)},
    optional={
        "base": st.fixed_dictionaries({}, optional=SITUATION),
        "cases": st.one_of(st.lists(CASE, max_size=2), st.just({})),
        "backends": some({"edge": "edge", "cloud": "cloud"}, {"edge": "moon"}, {}),
    },
)


@settings(max_examples=60, deadline=None)
@given(document=CASE_FILES)
def test_schema_and_reader_agree_on_every_generated_file_of_cases_but_for_names(document):
    policy = builtin_policy("balanced")
    faults: list[str] = []
    try:
        parse_cases(json.dumps(document), "x", lambda _: policy)
    except PolicyError as error:
        faults = [str(one) for one in error.errors]
    names = re.compile("is not a (declared tag|backend or a location)")
    structural = [fault for fault in faults if not names.search(fault)]
    if structural or not faults:
        assert CASES.is_valid(document) is (not structural), structural or list(CASES.iter_errors(document))
