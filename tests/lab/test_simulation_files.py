"""Traces, round-trip times and world files: what is valid is read, and every fault is reported with its line."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.request import Request, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.lab.simulate.rtt import load_rtt
from hybrid_llm.lab.simulate.trace import (
    TASKS,
    Arrival,
    Daily,
    Spans,
    load_trace,
    parse_daily,
    parse_duration,
    parse_span,
)
from hybrid_llm.lab.simulate.world import World, load_world, parse_world
from hybrid_llm.router.observability.recorder import Recording, dump

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("HYBRID_TESTS_DATA", ROOT / ".." / "shared" / "data"))
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MOONCAKE = '{"timestamp": 1500, "input_length": 10, "output_length": 5, "hash_ids": [0, 1]}\n'


def read(tmp_path, text, *, packed=False, **options):
    path = tmp_path / "trace"
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if packed else data)
    return load_trace(path, **options)


@pytest.mark.parametrize("packed", [False, True])
def test_the_azure_trace_is_read(tmp_path, packed):
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    first, second = read(tmp_path, AZURE + rows, packed=packed).arrivals
    assert (first.at_s, first.prompt_tokens, first.output_tokens) == (0.0, 374, 44)
    assert second.at_s == pytest.approx(4.314579, abs=1e-5)


def test_mooncakes_trace_is_read_in_the_order_of_time(tmp_path):
    second = MOONCAKE.replace("1500", "500").replace("10,", "20,")
    first, last = read(tmp_path, MOONCAKE + second, packed=True).arrivals
    assert (first.prompt_tokens, first.at_s, last.at_s) == (20, 0.0, 1.0)


def test_recorded_decisions_are_read(tmp_path):
    metadata = RequestMetadata.of(Request(messages=(), prompt_tokens=1, max_tokens=9, privacy=frozenset({"phi"})))
    one = dump(Recording(at=3.0, metadata=metadata, signals=Signals()))
    found = read(tmp_path, f"{one}\n{one}\n")
    assert len(found.arrivals) == 2
    assert found.arrivals[0] == Arrival(
        at_s=0.0, prompt_tokens=1, output_tokens=9, max_tokens=9, deadline_s=metadata.deadline, found=frozenset({"phi"})
    )


def test_only_the_first_requests_are_taken(tmp_path):
    assert len(read(tmp_path, MOONCAKE * 10, limit=3).arrivals) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (AZURE + "2023-11-16 18:15:46,1\n", "line 2: there are 2 columns"),
        (AZURE + "2023-11-16 18:15:46,1,2\nyesterday,1,2\n", "line 3: `yesterday` is not a time"),
        (AZURE + "2023-11-16 18:15:46,many,2\n", "line 2: `ContextTokens` is not a number of tokens: `many`"),
        (AZURE + "2023-11-16 18:15:46,1,-2\n", "line 2: `GeneratedTokens` is not"),
        (MOONCAKE + "{\n", "line 2: this is not JSON"),
        (MOONCAKE + "[1]\n", "line 2: this is not a JSON object"),
        (MOONCAKE + '{"timestamp": 1, "input_length": 2}\n', "line 2: `output_length` is missing"),
        (MOONCAKE.replace("1500", "true"), "line 1: `timestamp` is not a number of milliseconds"),
        (MOONCAKE.replace("1500", "NaN"), "line 1: `timestamp` is not a number of milliseconds"),
        (MOONCAKE.replace("10,", "1e5,"), "line 1: `input_length` is not a number of tokens"),
        ("time,tokens\n1,2\n", "line 1: unknown format"),
        ("", "line 1: unknown format"),
        (AZURE, "the trace has no request"),
        (b"\xff\xfe\x00", "damaged or not text"),
        (gzip.compress(AZURE.encode() * 50)[:40], "damaged or not text"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_line(tmp_path, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        read(tmp_path, text)
    assert caught.value.path is not None


def test_a_missing_trace_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_trace(tmp_path / "none.csv")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_trace_or_a_config_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    try:
        load_trace(path)
    except ConfigError as error:
        assert str(path) in str(error)


# ---- round-trip times


def archive(tmp_path, slices):
    path = tmp_path / "rtt.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        for name, text in slices.items():
            member = tarfile.TarInfo(f"Seattle/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_one_pair_of_netlatency_is_a_series_in_the_order_of_its_slices(tmp_path):
    path = archive(
        tmp_path, {"SeattleData_10": "0\t0.3\n0.4\t0\n", "SeattleData_2": "0\t0.1\n0.2\t0\n", "README.md": "text"}
    )
    found = load_rtt(path, seed=1, slice_s=10.0, pair=(2, 1))
    assert [found.at(second) for second in (0.0, 9.9, 10.0, 20.0)] == pytest.approx([200.0, 200.0, 400.0, 200.0])
    drawn = load_rtt(path, seed=1, slice_s=10.0)
    assert drawn == load_rtt(path, seed=1, slice_s=10.0)


def test_a_table_of_round_trips_holds_until_the_next_line(tmp_path):
    path = tmp_path / "rtt.csv"
    path.write_text("seconds,rtt_ms\n0,30\n60,200\n")
    found = load_rtt(path, seed=1, slice_s=1.0)
    assert [found.at(second) for second in (0.0, 59.0, 60.0, 119.0, 120.0)] == [30.0, 30.0, 200.0, 200.0, 30.0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n", "line 1 must be `seconds,rtt_ms`"),
        ("seconds,rtt_ms\n0,x\n", "line 2: `0,x` is not two numbers"),
        ("seconds,rtt_ms\n0,1\n0,2\n", "line 3: the seconds must increase"),
        ("seconds,rtt_ms\n0,-1\n", "line 2: both numbers must be 0 or more"),
        ("seconds,rtt_ms\n0,nan\n", "line 2: both numbers must be 0 or more"),
        ("seconds,rtt_ms\n5,1\n", "line 2 must be the value from second 0 on"),
        (b"\xff\xff", "neither NetLatency's .tar.xz nor a CSV"),
    ],
)
def test_a_wrong_table_of_round_trips_is_refused_with_its_line(tmp_path, text, told):
    path = tmp_path / "rtt.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_rtt(path, seed=1, slice_s=1.0)


@pytest.mark.parametrize(
    ("slices", "pair", "told"),
    [
        ({"README.md": "x"}, None, "has no file named SeattleData_1"),
        ({"SeattleData_1": "0 0.1\n0.1 0\n"}, (1, 3), "two different devices from 1 to 2"),
        ({"SeattleData_1": "0 0.1\n0.1 0\n"}, (1, 1), "two different devices from 1 to 2"),
        ({"SeattleData_1": "0 x\n0.1 0\n"}, (1, 2), "SeattleData_1, line 1: there is no number in column 2"),
        ({"SeattleData_1": "0 -5\n0.1 0\n"}, (1, 2), "line 1, column 2: -5.0 is not a round-trip time"),
    ],
)
def test_wrong_netlatency_data_is_refused(tmp_path, slices, pair, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_rtt(archive(tmp_path, slices), seed=1, slice_s=1.0, pair=pair)


def test_the_public_data_can_be_read():
    if not DATA.is_dir():
        pytest.skip(f"the public traces are not at {DATA}; set HYBRID_TESTS_DATA")
    azure = load_trace(DATA / "traces" / "AzureLLMInferenceTrace_conv.csv.gz", limit=500)
    mooncake = load_trace(DATA / "traces" / "conversation_trace.jsonl.gz", limit=500)
    assert (len(azure.arrivals), len(mooncake.arrivals)) == (500, 500)
    found = load_rtt(DATA / "network" / "NetLatency-Seattle.tar.xz", seed=1, slice_s=15.7)
    assert len(found.rtt_ms) == 688
    assert 1.0 <= found.median_ms <= 2000.0


# ---- spans


def test_spans_and_durations_are_read_as_they_are_written():
    assert parse_span("10m..1.5h") == (600.0, 5400.0)
    assert parse_span("0..30s") == (0.0, 30.0)
    assert parse_duration("30ms") == pytest.approx(0.03)
    assert parse_daily("22:00-07:00") == (79200.0, 25200.0)


@pytest.mark.parametrize("text", ["", "10", "10m", "10m..", "20m..10m", "5m..5m", "a..b", "-1s..2s", "1e3s..2e3s"])
def test_a_wrong_span_says_how_to_write_one(text):
    with pytest.raises(ValueError, match=r"such as|before it begins"):
        parse_span(text)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=6), st.integers(0, 80))
def test_overlapping_spans_cover_what_any_of_them_covers(pairs, at):
    spans = [(float(a), float(a + length)) for a, length in pairs]
    assert Spans(spans).covers(float(at)) is any(a <= at < b for a, b in spans)


@given(st.integers(0, 86399), st.floats(0.0, 1e7))
def test_a_part_of_the_day_changes_exactly_at_its_edges(start, at):
    daily = Daily((parse_daily("22:00-07:00"), parse_daily("12:30-13:30")), float(start))
    edge = daily.next_edge(at)
    assert at < edge <= at + 86400.0
    assert daily.covers(edge + 1e-3) is not daily.covers(edge - 1e-3)
    assert daily.covers((at + edge) / 2) is daily.covers(edge - 1e-3)


# ---- world files


def test_the_default_world_written_out_reads_back_as_itself():
    assert parse_world(World().text()) == World()


def test_a_world_file_changes_what_it_names_and_nothing_else(tmp_path):
    path = tmp_path / "world.yaml"
    path.write_text('version: 1\nedge: {decode_tokens_per_s: 20.0, slots: 2}\nbattery: {charging: ["01:00-02:00"]}\n')
    world = load_world(path)
    assert (world.edge.decode_tokens_per_s, world.edge.slots, world.edge.prefill_tokens_per_s) == (20.0, 2, 538.0)
    assert {constant.name for constant in world.constants() if constant.changed} == {
        "edge.decode_tokens_per_s",
        "edge.slots",
        "battery.charging",
    }


WRONG = """\
version: 2
batery: {capacity_wh: 1.0}
edge: {slots: 0, prefil_tokens_per_s: 3.0}
node: {failure_share: 1.5, decode_ms: fast}
battery: {charging: ["25:00-26:00"], day_starts_at: []}
"""


def test_every_fault_of_a_world_file_is_reported_at_once_with_its_position_and_a_suggestion():
    with pytest.raises(PolicyError) as caught:
        parse_world(WRONG, path="w.yaml")
    places = [(error.line, error.column) for error in caught.value.errors]
    assert places == [(1, 10), (2, 1), (3, 15), (3, 18), (4, 23), (4, 39), (5, 22), (5, 53)]
    for told in (
        "did you mean `battery`?",
        "did you mean `prefill_tokens_per_s`?",
        "8 errors; the world file is rejected",
    ):
        assert told in str(caught.value)
    assert "policy" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("thermal: {throttle_from_c: 90.0, throttle_to_c: 80.0}", "`throttle_to_c` must be above"),
        ("node: {slots: 4, background_streams: 4}", "leaves no slot"),
        ("edge: [1]", "must be a mapping"),
        ("battery: {charging: 22:00-07:00}", "must be a list"),
    ],
)
def test_constants_that_contradict_each_other_or_have_another_form_are_refused(text, told):
    with pytest.raises(PolicyError, match=re.escape(told)):
        parse_world(f"version: 1\n{text}")


def test_a_world_file_that_cannot_be_read_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="the world file cannot be read"):
        load_world(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_world(tmp_path / "bytes.yaml")


# ---- the page


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "simulation.md").read_text("utf-8")


def test_the_page_lists_every_constant_with_its_default_its_meaning_and_its_source(page):
    for constant in World().constants():
        assert (
            f"| `{constant.name}` | {constant.shown} | {constant.declared.about} | {constant.declared.source} |" in page
        ), constant.name


def test_the_page_names_no_constant_that_there_is_not(page):
    known = {constant.name for constant in World().constants()}
    sections = "|".join({name.partition(".")[0] for name in known})
    assert set(re.findall(rf"`((?:{sections})\.[a-z0-9_]+)`", page)) <= known | {"network.online"}


def test_the_page_has_the_distributions_of_the_made_up_trace(page):
    for task in TASKS:
        assert (
            f"| `{task.name}` | {task.share:.0%} | {task.prompt_median:g} | {task.prompt_sigma:g} "
            f"| {task.output_median:g} | {task.output_sigma:g} |" in page
        )


def test_the_world_on_the_page_can_be_read(page):
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        parse_world(block)


def test_the_figures_that_are_called_measured_are_in_the_benchmarks(page):
    figures = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    edge, memory = World().edge, World().memory
    rates = f"{edge.prefill_tokens_per_s:g} | **{edge.decode_tokens_per_s:g}**"
    assert f"| **hybrid-llm** | {rates} | 243 | {memory.model_mb:g} |" in figures
    assert 128 / edge.prefill_tokens_per_s * 1000.0 + edge.overhead_ms == pytest.approx(243.0, abs=1.0)
