"""The frontier: what is measured, drawn and chosen. A choice keeps every limit, and nothing that fits beats it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.cli.main import main
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.frontier.choose import PREFERENCES, Limits, choose
from hybrid_llm.prepare.compression.frontier.page import html, markdown
from hybrid_llm.prepare.compression.frontier.plot import draw
from hybrid_llm.prepare.compression.frontier.step import FrontierStep
from hybrid_llm.prepare.compression.frontier.variants import Frontier, Variant, read_frontier
from tests.prepare.compression import tiny

SVG = "{http://www.w3.org/2000/svg}"
few = st.integers(1, 5).map(float)
"""Few values, so that variants are often equal in something."""


def variant(name: str, size: float, memory: float, speed: float, quality: float) -> Variant:
    return Variant(name=name, path=f"/models/{name}", size_mb=size, peak_memory_mb=memory, speed=speed, quality=quality)


@st.composite
def frontiers(draw: st.DrawFn) -> Frontier:
    count = draw(st.integers(1, 7))
    metric, unit = draw(st.sampled_from([("perplexity", "tokens_per_s"), ("accuracy", "texts_per_s")]))
    variants = tuple(variant(f"v{i}", *(draw(few) for _ in range(4))) for i in range(count))
    return Frontier(metric=metric, unit=unit, variants=variants)


limits_for = st.builds(
    Limits,
    memory_mb=st.none() | few,
    size_mb=st.none() | few,
    least_speed=st.none() | few,
    least_share=st.none() | st.sampled_from([0.3, 0.6, 1.0]),
)
SAMPLE = Frontier(
    metric="perplexity",
    unit="tokens_per_s",
    variants=(
        variant("fp32", 540, 1200, 10, 25.3),
        variant("int8", 267, 500, 41, 25.5),
        variant("int4", 114, 280, 62, 29.4),
        variant("slow int4", 115, 290, 50, 29.4),
        variant("pruned, int4", 60, 200, 80, 66),
    ),
)


def keeps(frontier: Frontier, one: Variant, limits: Limits) -> bool:
    return (
        (limits.memory_mb is None or one.peak_memory_mb <= limits.memory_mb)
        and (limits.size_mb is None or one.size_mb <= limits.size_mb)
        and (limits.least_speed is None or one.speed >= limits.least_speed)
        and (limits.least_share is None or frontier.relative(one) >= limits.least_share)
    )


class TestChoice:
    @given(frontier=frontiers(), limits=limits_for, prefer=st.sampled_from(PREFERENCES))
    def test_it_keeps_the_limits_and_is_never_dominated(self, frontier: Frontier, limits: Limits, prefer: str) -> None:
        choice = choose(frontier, limits, prefer)
        fitting = [each for each in frontier.variants if keeps(frontier, each, limits)]
        assert (choice.chosen is None) == (not fitting)
        if choice.chosen is not None:
            assert choice.chosen in fitting
            assert not any(frontier.dominates(other, choice.chosen) for other in frontier.variants)
        everything = {each.name for each in frontier.variants}
        assert choice.reasons.keys() == everything - ({choice.chosen.name} if choice.chosen else set())
        assert all(choice.reasons.values())

    @given(frontier=frontiers(), limits=limits_for, data=st.data())
    def test_it_does_not_depend_on_the_order(self, frontier: Frontier, limits: Limits, data: st.DataObject) -> None:
        shuffled = dataclasses.replace(frontier, variants=tuple(data.draw(st.permutations(frontier.variants))))
        assert choose(frontier, limits) == choose(shuffled, limits)

    @given(frontier=frontiers())
    def test_the_front_is_never_empty_and_beats_the_rest(self, frontier: Frontier) -> None:
        front = frontier.front()
        assert front
        for each in set(frontier.variants) - set(front):
            assert any(frontier.dominates(one, each) for one in front)

    def test_an_absolute_quality_where_less_is_better(self) -> None:
        with pytest.raises(ConfigError, match="such as 95%, or --max-perplexity"):
            choose(SAMPLE, Limits(least_quality=20))


class TestTheCommand:
    @pytest.fixture
    def results(self, tmp_path: Path) -> Path:
        (tmp_path / "results.json").write_text(SAMPLE.to_json())
        return tmp_path

    def test_it_prints_the_choice_and_why_not_the_others(
        self, results: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["models", "choose", str(results), "--memory", "300MB", "--min-quality", "85%"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(
            "int4: perplexity 29.4, 62.0 tokens/s, 114.0 MB, 280 MB of memory\nfolder  /models/int4\n"
        )
        assert "not fp32: memory 1,200 MB is over 300" in out
        assert "not pruned, int4: quality 38.33 % of the best is under 85" in out
        assert "not slow int4: fits, but int4 is better in speed, and worse in nothing" in out

    def test_other_limits_and_json(self, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["models", "choose", str(results / "results.json"), "--json", "--size", "0.5GB", "--prefer"]
        assert main([*command, "speed", "--max-perplexity", "30", "--min-tokens-per-s", "20"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["chosen"]["name"] == "int4"
        assert set(document["reasons"]) == {"fp32", "int8", "slow int4", "pruned, int4"}

    def test_nothing_fits(self, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "choose", str(results), "--memory", "250MB", "--max-perplexity", "30"]) == 1
        out = capsys.readouterr().out
        assert out.startswith("no variant keeps these limits; the nearest ones:\n  int4: ")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--min-texts-per-s", "3"], "use --min-tokens-per-s"),
            (["--min-quality", "20"], "--max-perplexity"),
        ],
    )
    def test_limits_that_do_not_go_with_the_metric(
        self, results: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
    ) -> None:
        assert main(["models", "choose", str(results), *options]) == 3
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize("size", ["300", "MB", "-3MB", "3 parsecs"])
    def test_a_size_without_sense(self, results: Path, size: str) -> None:
        assert main(["models", "choose", str(results), f"--memory={size}"]) == 2

    @pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', SAMPLE.to_json().replace("25.3", "NaN")])
    def test_another_file(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "results.json"
        path.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            read_frontier(path)


class TestThePlot:
    @given(frontier=frontiers())
    def test_labels_overlap_neither_each_other_nor_the_edges(self, frontier: Frontier) -> None:
        """Where points differ; equal ones are not told apart by any label."""
        root = ET.fromstring(draw(frontier))
        names = {each.name for each in frontier.variants}
        for panel in root.iter(f"{SVG}g"):
            texts = [text for text in panel.iter(f"{SVG}text") if text.text in names]
            assert len(texts) == len(names)
            boxes = [(float(text.get("x", "0")), float(text.get("y", "0"))) for text in texts]
            for i, (x, y) in enumerate(boxes):
                assert 40 < x < 430
                assert 10 < y < 330
                assert all(abs(x - left) >= 13 or abs(y - top) >= 13 for left, top in boxes[:i])

    def test_it_is_self_contained_and_follows_the_colours_of_the_page(self) -> None:
        page = html(SAMPLE)
        assert "prefers-color-scheme: dark" in page
        assert not re.search(r"(src|href)\s*=|url\(|@import", page)
        assert all(each.name in page for each in SAMPLE.variants)

    def test_names_are_escaped(self) -> None:
        odd = dataclasses.replace(SAMPLE, variants=(variant("<b>|&", 1, 1, 1, 1),))
        assert "<b>" not in html(odd)
        assert "\\|" in markdown(odd)
        ET.fromstring(draw(odd))


class TestTheStep:
    def test_two_decoders_side_by_side(self, tmp_path: Path, texts: Path) -> None:
        """The large one as the device runs it, which takes less to measure."""
        small = tiny.write_decoder(tmp_path / "small", seed=3, width=16, layers=1)
        work = tiny.work(tmp_path, "out")
        models = (tiny.named(embedded_model()), tiny.named(small))
        step = FrontierStep(models=models, names=("large", "small"), data=tiny.named(texts), evaluate_on=4)
        outcome = step.run(work)
        assert {path.name for path in work.out.iterdir()} == {
            "results.json",
            "frontier.svg",
            "frontier.md",
            "index.html",
        }
        frontier = read_frontier(work.out)
        assert [each.name for each in frontier.variants] == ["large", "small"]
        assert frontier.variants[1].size_mb < frontier.variants[0].size_mb
        assert outcome.metrics["variants"] == 2
        assert read_frontier(work.out).to_json() == (work.out / "results.json").read_text()

    def test_a_generator_and_a_classifier(self, tmp_path: Path, decoder: Path, classifier: Path, texts: Path) -> None:
        models = (tiny.named(decoder), tiny.named(classifier))
        with pytest.raises(ConfigError, match="cannot be compared"):
            FrontierStep(models=models, data=tiny.named(texts)).run(tiny.work(tmp_path, "out"))
