"""What `hybrid-llm doctor` checks of the figures under `quality`: whether they are about the models that are there."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_llm.cli.doctor_checks import Setup
from hybrid_llm.cli.findings import Finding, ok, warning
from hybrid_llm.router.config.quality import figures_for, read_evaluated, stale_text


def check_quality(setup: Setup) -> Iterator[Finding]:
    """Each backend with figures, and each whose model is another one than was evaluated."""
    config = setup.config
    if config is None or config.quality is None:
        return
    figures = figures_for(config.backends, read_evaluated(config.quality))
    for name, qualities in figures.qualities.items():
        listed = ", ".join(f"{task} {value:.3f}" for task, value in qualities.items()) or "no task from 0 to 1"
        yield ok("quality", f"{name}: {listed}")
    for name in figures.stale:
        again = f"hybrid-llm models evaluate {config.name}:{name} --suite FILE"
        yield warning("quality", stale_text(config.quality, name), f"evaluate it again: {again}")
