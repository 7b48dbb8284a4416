"""The step `frontier`: variants of a model side by side, as results, plot and table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import ListOf, Text, Whole, key
from hybrid_llm.prepare.compression.comparison import quality
from hybrid_llm.prepare.compression.folders import kind_of
from hybrid_llm.prepare.compression.frontier.page import html, markdown
from hybrid_llm.prepare.compression.frontier.plot import draw
from hybrid_llm.prepare.compression.frontier.variants import NAME, Frontier, Variant, names_of
from hybrid_llm.prepare.compression.measure import measure
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierStep:
    """Measure variants of a model on the same data, and show which of them no other beats.

    It writes `results.json`, from which `hybrid-llm models choose` picks, `frontier.svg`, `frontier.md` and
    `index.html`.
    """

    makes: ClassVar[Makes] = Makes.REPORT

    models: tuple[Input, ...] = key(ListOf(MODEL, least=1), "The variants: folders of generators, or of classifiers.")
    names: tuple[str, ...] = key(
        ListOf(Text("a name")), "Their names in the plot, in the same order; by default as in `models`.", default=()
    )
    data: Input = key(DATA, "What quality is measured on: its split `test`, else `validation`, else `train`.")
    evaluate_on: int = key(Whole(1), "Most records that quality is measured on.", default=200)

    def run(self, work: Work) -> Outcome:
        """Measure every variant, and write the report."""
        paths = [(str(each), work.path(each)) for each in self.models]
        names = self._names(paths)
        metric = self._metric([path for _, path in paths])
        variants: list[Variant] = []
        unit = ""
        for name, (_, path) in zip(names, paths, strict=True):
            work.progress(f"measuring {name}", len(variants) / len(paths))
            unit, variant = self._measured(name, path, work.path(self.data), metric)
            variants.append(variant)
        frontier = Frontier(metric=metric, unit=unit, variants=tuple(variants))
        contents = {NAME: frontier.to_json(), "frontier.svg": draw(frontier), "frontier.md": markdown(frontier)}
        for file, text in {**contents, "index.html": html(frontier)}.items():
            (work.out / file).write_text(text, encoding="utf-8")
        return Outcome(metrics={"variants": float(len(variants)), "on_front": float(len(frontier.front()))})

    def _names(self, paths: list[tuple[str, Path]]) -> list[str]:
        names = list(self.names) or names_of(paths)
        if len(names) != len(paths):
            raise ConfigError(f"names: there are {len(names)} for {len(paths)} models: give one for each")
        return names

    def _metric(self, paths: list[Path]) -> str:
        generates = {kind_of(path).generates for path in paths}
        if len(generates) > 1:
            raise ConfigError("generators and classifiers cannot be compared: make a frontier of each")
        return "perplexity" if generates == {True} else "accuracy"

    def _measured(self, name: str, path: Path, data: Path, metric: str) -> tuple[str, Variant]:
        cost, found = measure(path), quality(path, data, self.evaluate_on)
        variant = Variant(
            name=name,
            path=str(path),
            size_mb=round(cost.size_mb, 3),
            peak_memory_mb=round(cost.peak_memory_mb, 1),
            speed=round(cost.speed, 2),
            quality=found[metric],
        )
        return cost.unit, variant
