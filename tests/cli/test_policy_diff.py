"""`hybrid-llm policy diff`: recorded requests under two policies."""

import json

import pytest

from hybrid_llm.core.request import Message, Request, RequestMetadata
from hybrid_llm.lab.casefile import default_signals
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.observability.recorder import Recording, dump


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "decisions.jsonl"
    lines = []
    for number, tags in enumerate(({"public"}, {"phi"}, set())):
        request = Request(
            messages=(Message(role="user", content="x"),),
            privacy=frozenset(tags),
            request_id=f"r-{number}",
            prompt_tokens=100,
            max_tokens=100,
        )
        lines.append(
            dump(
                Recording(
                    at=0.0, metadata=RequestMetadata.of(request), signals=default_signals(builtin_policy("balanced"))
                )
            )
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_it_shows_which_requests_are_routed_differently_and_counts_the_routes(cli, trace):
    result = cli("policy", "diff", "balanced", "latency-first", "--trace", trace)
    assert result.code == 1
    assert "r-0" in result.out
    assert "edge > cloud -> cloud > edge" in result.out
    assert "r-1" not in result.out
    assert "2  edge -> cloud   changed" in result.out
    assert "2 of 3 requests would go to another backend; 0 more" in result.out


def test_the_same_policy_is_code_0(cli, trace):
    result = cli("policy", "diff", "balanced", "balanced", "--trace", trace, "--trace", trace)
    assert result.code == 0
    assert "0 of 6 requests would go to another backend" in result.out


def test_a_newly_reachable_location_is_marked(cli, trace):
    result = cli("policy", "diff", "private-first", "balanced", "--trace", trace)
    assert "! 1 could reach a location that was excluded before" in result.out


def test_rows_are_limited_and_json_has_all(cli, trace):
    arguments = ("policy", "diff", "balanced", "latency-first", "--trace", trace)
    assert "... and 1 more" in cli(*arguments, "--limit", "1").out
    shown = json.loads(cli(*arguments, "--json").out)
    assert (shown["total"], shown["elsewhere"], len(shown["changes"])) == (3, 2, 2)
    assert shown["changes"][0]["new"]["rule"] == "rules[4]"


def test_a_recorded_request_is_explained_with_its_recorded_signals(cli, trace):
    result = cli("policy", "explain", "balanced", "--trace", trace, "--request", "r-1")
    assert result.code == 0
    assert "excluded: cloud: tag phi allows only edge" in result.out
    assert "edge.predicted_ttft_ms=150," in result.out
    hot = ("--signal", "device.temperature_c=90")
    last = json.loads(cli("policy", "explain", "balanced", "--trace", trace, *hot, "--json").out)
    assert last["order"] == ["cloud", "edge"]
    assert cli("policy", "explain", "balanced", "--trace", trace, "--request", "r-9").code == 2
    assert cli("policy", "explain", "balanced").code == 2
    assert cli("policy", "explain", "balanced", "Hello", "--trace", trace).code == 2


def test_a_bad_line_and_an_empty_file_are_code_3(cli, trace, tmp_path):
    trace.write_text(trace.read_text() + "{}\n")
    result = cli("policy", "diff", "balanced", "balanced", "--trace", trace)
    assert (result.code, f"{trace}:4: " in result.err) == (3, True)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert cli("policy", "diff", "balanced", "balanced", "--trace", empty).code == 3
    absent = cli("policy", "diff", "balanced", "balanced", "--trace", tmp_path / "absent.jsonl")
    assert (absent.code, "record: {path: decisions.jsonl}" in absent.err) == (3, True)
    assert cli("policy", "diff", "balanced", "balanced").code == 2
