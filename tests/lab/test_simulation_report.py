"""The report is one page that needs nothing else, says what was simulated, and is the same for the same seed."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate.compare import Contestant, always, compare
from hybrid_llm.lab.simulate.plots import PAINT
from hybrid_llm.lab.simulate.report import report, sentences, table
from hybrid_llm.lab.simulate.trace import Spans, synthetic, with_tags
from hybrid_llm.lab.simulate.world import Setting
from hybrid_llm.policies import builtin_policy, parse_policy
from tests.lab.simulated import trace, world

pytest.importorskip("matplotlib", reason="the report needs hybrid-llm[report]")

NAME = "<b>&\"evil'"
TEXT = f"""\
version: 1
name: {json.dumps(NAME)}
tags: {{phi: {{allow: [edge]}}}}
objectives: {{ttft: 300ms}}
# </pre><script>
"""


def contest(requests, *others, text=TEXT, **setting):
    policy = parse_policy(text)
    listed = [Contestant(policy=policy, text=text)]
    listed += [always(place, policy) for place in Location]
    return compare([*listed, *others], requests, Setting(**setting), 300.0)


@pytest.fixture(scope="module")
def comparison():
    requests = with_tags(synthetic(300, per_hour=200.0, seed=1, day_starts_s=0.0), {"phi": 0.2}, seed=1)
    changed = world(edge={"decode_tokens_per_s": 50.0})
    return contest(requests, world=changed, offline=Spans([(600.0, 1200.0)]))


@pytest.fixture(scope="module")
def page(comparison):
    return report(comparison, command="hybrid-llm policy simulate 'a b' --seed 1", version="9.9")


class Reader(HTMLParser):
    VOID = frozenset({"meta", "br", "path", "use", "rect", "line", "circle"})

    def __init__(self):
        super().__init__()
        self.tags, self.stack, self.links, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            (name, value) for name, value in attrs if name in {"src", "href", "xlink:href", "data", "action"}
        ]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_anywhere(page):
    reader = Reader()
    reader.feed(page)
    assert reader.stack == []
    assert not {"script", "link", "iframe", "object", "img", "base"} & set(reader.tags)
    assert all(value.startswith("#") for _, value in reader.links)
    assert {value.removeprefix("#") for _, value in reader.links} <= set(reader.ids)
    assert not re.search(r"@import|url\((?!#)|https?://", page)
    assert len(page) < 1_000_000


def test_every_plot_has_a_name_and_is_painted_in_the_colours_of_the_page(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 10
    for drawing in drawings:
        assert re.match(r'<svg role="img" aria-label="[^"]+"', drawing)
        assert "var(--ink)" in drawing
        assert "<text" in drawing
        assert not any(colour in drawing for colour in PAINT.values())


def test_axes_have_titles_with_units(page):
    for label in ("share of the requests, %", "energy, Wh", "charge, %", "temperature, °C", "cost, USD", "hours since"):
        assert label in page


def test_the_page_says_what_was_simulated(page, comparison):
    for one in comparison.contestants:
        assert one.policy.digest in page
    for constant in comparison.setting.world.constants():
        assert f"<code>{constant.name}</code>" in page
    assert "1 of them changed" in page
    assert "hybrid-llm policy simulate &#x27;a b&#x27; --seed 1" in page
    assert "Made by hybrid-llm 9.9" in page
    assert "synthetic: 300 requests" in page


def test_what_policies_say_cannot_become_part_of_the_page(page):
    assert "<b>&\"evil'" not in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page


def test_the_same_comparison_gives_the_same_page(page, comparison):
    assert report(comparison, command="hybrid-llm policy simulate 'a b' --seed 1", version="9.9") == page


@pytest.mark.parametrize("count", [0, 1])
def test_a_trace_of_nothing_or_of_one_request_has_a_report_too(count):
    found = contest(trace(*[(0.0, 5000, 10)] * count), world=world(battery={"capacity_wh": 0.0}))
    assert "no battery" in report(found, command="x", version="1")
    assert sentences(found)


def test_policies_of_one_name_are_distinguished(comparison):
    requests = synthetic(20, per_hour=200.0, seed=1, day_starts_s=0.0)
    balanced = [
        Contestant(policy=builtin_policy("balanced"), text=""),
        Contestant(policy=parse_policy("version: 1\nname: balanced\n"), text=""),
    ]
    found = compare(balanced, requests, Setting())
    for one in found.summaries:
        assert f"balanced {one.digest[:4]}" in report(found, command="x", version="1")


def test_a_leak_could_not_be_overlooked(comparison):
    leaked = dataclasses.replace(comparison.summaries[0], bound_left=3)
    found = dataclasses.replace(comparison, summaries=(leaked, *comparison.summaries[1:]))
    assert "this is a bug" in sentences(found)[1]
    assert '<span class="bad">' in report(found, command="x", version="1")
    assert re.search(r"left the device +3 ", table(found))


def test_without_matplotlib_the_report_names_what_to_install_before_anything_is_simulated(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from hybrid_llm.cli.main import main\n"
        f"sys.exit(main(['policy', 'simulate', '--requests', '20', '--html', {str(tmp_path / 'r.html')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert 'needs matplotlib: pip install "hybrid-llm[report]"' in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "r.html").exists()
