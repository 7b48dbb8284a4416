"""The plots of a report, drawn by matplotlib as SVG to embed in a page.

Colours are CSS variables, so that one drawing works on light and dark backgrounds. Lines also differ in dashes, and
areas in hatches, for readers who cannot distinguish the colours (palette after Okabe and Ito, 2008).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.lab.simulate.compare import Comparison
from hybrid_llm.lab.simulate.summary import Outcome, Run, Status, Summary
from hybrid_llm.lab.simulate.trace import DAY_S, Daily, parse_clock, parse_daily

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PAINT: Final = {
    "ink": "#010101",
    "faint": "#020202",
    "shade": "#030303",
    "paper": "#040404",
    **{f"series{number}": f"#0a0a{number:02x}" for number in range(1, 9)},
}
"""Name of a CSS variable -> the colour that stands for it in the drawing."""

_DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
_HATCHES: Final = ("", "", "", "xxxx", "////", "....", "----", "")
_POINTS: Final = 240
_BINS: Final = 48
_WIDTH, _HEIGHT = 6.6, 3.3
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hybrid-llm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": PAINT["faint"],
    "axes.labelcolor": PAINT["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": PAINT["ink"],
    "xtick.color": PAINT["ink"],
    "ytick.color": PAINT["ink"],
    "grid.color": PAINT["faint"],
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One drawing, with what it shows."""

    title: str
    about: str
    svg: str


Draw = Callable[["Axes", Comparison], None]
Part = tuple[str, int, Callable[[Summary], float]]
"""Label, number of the colour, value."""


def plots(comparison: Comparison) -> list[Plot]:
    """All plots of a report.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ConfigError("the report needs matplotlib: pip install 'hybrid-llm[report]'") from None
    with mpl.rc_context(cast(Any, _STYLE)):
        return [_plot(title, about, draw, comparison) for title, about, draw in _listed(comparison)]


def _listed(comparison: Comparison) -> Iterator[tuple[str, str, Draw]]:
    goal = comparison.goals.ttft_ms
    with_goal = f" The vertical line is the goal, {goal:g} ms." if goal is not None else ""
    yield "Outcomes of requests", "Share of all requests, by policy.", _routes
    yield "Missed service levels", "Share of all requests that were slow or had no answer.", _missed
    yield (
        "Time to the first token",
        f"Share of the answered requests whose first token came within this time.{with_goal}",
        _first_token,
    )
    yield "Time of the whole answer", "Share of the answered requests that were complete within this time.", _latency
    yield "Load", "Requests that arrive in each part of the trace.", _load
    yield "Cost", f"Spent since the start, {comparison.currency}.", _cost
    yield "Energy of the device", "Base load, and the part that answers took.", _energy
    if comparison.setting.world.battery.capacity_wh:
        yield "Battery", "Charge over the time of the trace; on the mains where shaded.", _battery
    yield "Temperature", "Of the device; above the line it is throttled.", _temperature
    if comparison.summaries[0].bound:
        yield (
            "Privacy",
            "Requests whose tags do not allow the cloud. Open bars: requests that the same policy would have sent "
            "there without their tags.",
            _privacy,
        )


def _plot(title: str, about: str, draw: Draw, comparison: Comparison) -> Plot:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    draw(axes, comparison)
    target = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    cast(Any, FigureCanvasSVG(figure)).print_svg(target, metadata=nothing)
    return Plot(title=title, about=about, svg=_embedded(target.getvalue(), title))


def _embedded(text: str, title: str) -> str:
    """The drawing without what only a file needs, in the page's colours."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg)[^>]*?(viewBox="[^"]*")[^>]*>', rf'\1 role="img" aria-label="{title}" \2>', svg, count=1)
    svg = re.sub(r'xlink:href="#', 'href="#', svg)
    for name, colour in PAINT.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip()


def _colour(number: int) -> str:
    return PAINT[f"series{number % 8 + 1}"]


def _names(comparison: Comparison) -> list[str]:
    """Labels of the policies; those with the same name get a part of their digest."""
    names = [one.policy for one in comparison.summaries]
    return [
        name if names.count(name) == 1 else f"{name} {one.digest[:4]}"
        for name, one in zip(names, comparison.summaries, strict=True)
    ]


# ---- bars: one for each policy


def _stack(axes: Axes, comparison: Comparison, parts: Sequence[Part], form: str = "{:.1f} %") -> None:
    """Horizontal bars made of parts; *form* writes the figures in them."""
    names = _names(comparison)
    left = [0.0] * len(names)
    for label, colour, value in parts:
        widths = [value(one) for one in comparison.summaries]
        if not any(widths):
            continue
        bars = axes.barh(
            names,
            widths,
            left=left,
            height=0.62,
            label=label,
            color=_colour(colour),
            hatch=_HATCHES[colour % len(_HATCHES)],
            edgecolor=PAINT["paper"],
            linewidth=0.8,
        )
        _annotate(axes, bars, left, widths, form)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    if any(left):
        axes.figure.legend(loc="outside lower center", ncols=3)


def _annotate(axes: Axes, bars: Any, left: Sequence[float], widths: Sequence[float], form: str) -> None:
    """Write the figure into each part that is wide enough for it."""
    whole = max(a + b for a, b in zip(left, widths, strict=True))
    for bar, width in zip(bars, widths, strict=True):
        if width > 0.11 * whole:
            middle = bar.get_x() + width / 2.0, bar.get_y() + bar.get_height() / 2.0
            box = {"boxstyle": "round,pad=0.2", "facecolor": PAINT["paper"], "edgecolor": "none"}
            axes.text(*middle, form.format(width), ha="center", va="center", fontsize=8.0, bbox=box)


def _of(count: int, one: Summary) -> float:
    return 100.0 * count / max(1, one.requests)


def _routes(axes: Axes, comparison: Comparison) -> None:
    _stack(
        axes,
        comparison,
        [
            ("answered on the device", 0, lambda one: _of(one.edge, one)),
            ("answered in the cloud", 1, lambda one: _of(one.cloud, one)),
            ("refused: no eligible backend", 4, lambda one: _of(one.refused, one)),
            ("failed", 3, lambda one: _of(one.failed, one)),
            ("late", 5, lambda one: _of(one.late, one)),
            ("battery empty", 6, lambda one: _of(one.off, one)),
        ],
    )
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("share of the requests, %")


def _missed(axes: Axes, comparison: Comparison) -> None:
    _stack(
        axes,
        comparison,
        [
            ("first token after the goal", 3, lambda one: _of(one.slow, one)),
            ("no answer", 4, lambda one: _of(one.missed - one.slow, one)),
        ],
    )
    axes.set_xlabel("share of the requests, %")


def _energy(axes: Axes, comparison: Comparison) -> None:
    _stack(
        axes,
        comparison,
        [
            ("for answers (model and radio)", 1, lambda one: one.model_energy_wh),
            ("everything else", 7, lambda one: one.energy_wh - one.model_energy_wh),
        ],
        "{:.1f}",
    )
    axes.set_xlabel("energy, Wh")


def _privacy(axes: Axes, comparison: Comparison) -> None:
    _stack(
        axes,
        comparison,
        [
            ("answered on the device", 0, lambda one: one.bound_answered),
            ("no answer", 4, lambda one: one.bound - one.bound_answered - one.bound_left),
            ("left the device", 3, lambda one: one.bound_left),
        ],
        "{:.0f}",
    )
    names = _names(comparison)
    would = [one.would_leave for one in comparison.summaries]
    heights = [number + 0.4 for number in range(len(names))]
    bars = axes.barh(
        heights, would, height=0.14, facecolor="none", edgecolor=PAINT["ink"], label="would have left without tags"
    )
    axes.bar_label(bars, fmt="%d", padding=3, fontsize=8.0)
    for old in list(axes.figure.legends):
        old.remove()
    axes.figure.legend(loc="outside lower center", ncols=2)
    axes.set_xlabel("requests")


# ---- shares of requests over time needed


def _shares(axes: Axes, comparison: Comparison, value: Callable[[Outcome], float], goal: float | None) -> None:
    for number, (name, run) in enumerate(zip(_names(comparison), comparison.runs, strict=True)):
        times = sorted(max(1.0, value(one)) for one in run.outcomes if one.status is Status.ANSWERED)
        if times:
            steps = [round(step * (len(times) - 1) / (_POINTS - 1)) for step in range(_POINTS)]
            shares = [100.0 * (step + 1) / len(times) for step in steps]
            axes.plot([times[step] for step in steps], shares, label=name, **_line(number))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda ms, _: f"{ms / 1000.0:g} s" if ms >= 1000.0 else f"{ms:g} ms")
    if goal is not None:
        axes.axvline(goal, color=PAINT["ink"], linewidth=1.0)
    axes.set_ylim(0.0, 101.0)
    axes.set_ylabel("share of the answered, %")
    axes.set_xlabel("time from the request on, logarithmic")
    _finish_lines(axes)


def _line(number: int) -> dict[str, Any]:
    return {"color": _colour(number), "linestyle": _DASHES[number % len(_DASHES)], "linewidth": 1.8}


def _finish_lines(axes: Axes) -> None:
    axes.grid(alpha=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside lower center", ncols=3)


def _first_token(axes: Axes, comparison: Comparison) -> None:
    _shares(axes, comparison, lambda one: one.ttft_ms, comparison.goals.ttft_ms)


def _latency(axes: Axes, comparison: Comparison) -> None:
    _shares(axes, comparison, lambda one: one.total_ms, None)


# ---- the time of the trace


def _course(axes: Axes, comparison: Comparison, value: Callable[[Run], Sequence[float]]) -> None:
    for number, (name, run) in enumerate(zip(_names(comparison), comparison.runs, strict=True)):
        hours = [sample.at_s / 3600.0 for sample in run.samples]
        axes.plot(hours, value(run), label=name, **_line(number))
    edges = comparison.setting.offline.edges
    for number, (begin, end) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        axes.axvspan(
            begin / 3600.0,
            end / 3600.0,
            facecolor="none",
            edgecolor=PAINT["series6"],
            hatch="///",
            linewidth=0.0,
            label="offline" if number == 0 else None,
        )
    axes.set_xlim(0.0, _hours(comparison))
    axes.set_xlabel("hours since the start of the trace")
    _finish_lines(axes)


def _hours(comparison: Comparison) -> float:
    return max(sample.at_s for run in comparison.runs for sample in run.samples) / 3600.0


def _load(axes: Axes, comparison: Comparison) -> None:
    end = _hours(comparison)
    axes.hist([one.at_s / 3600.0 for one in comparison.trace.arrivals], bins=_BINS, range=(0.0, end), color=_colour(5))
    axes.set_xlim(0.0, end)
    axes.set_xlabel("hours since the start of the trace")
    axes.set_ylabel(f"requests in {60.0 * end / _BINS:.3g} minutes")
    axes.grid(axis="y", alpha=0.6)


def _cost(axes: Axes, comparison: Comparison) -> None:
    _course(axes, comparison, lambda run: [sample.cost for sample in run.samples])
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel(f"cost, {comparison.currency}")


def _battery(axes: Axes, comparison: Comparison) -> None:
    world, end = comparison.setting.world.battery, _hours(comparison) * 3600.0
    daily = Daily(tuple(map(parse_daily, world.charging)), parse_clock(world.day_starts_at[0]))
    now = 0.0
    while now < end and daily.spans:
        until = min(end, daily.next_edge(now))
        if daily.covers((now + until) / 2.0):
            axes.axvspan(now / 3600.0, until / 3600.0, color=PAINT["shade"], linewidth=0.0)
        now = until if until > now else now + DAY_S
    _course(axes, comparison, lambda run: [100.0 * (sample.battery or 0.0) for sample in run.samples])
    axes.set_ylim(0.0, 101.0)
    axes.set_ylabel("charge, %")


def _temperature(axes: Axes, comparison: Comparison) -> None:
    _course(axes, comparison, lambda run: [sample.temperature_c for sample in run.samples])
    slows = comparison.setting.world.thermal.throttle_from_c
    axes.axhline(slows, color=PAINT["ink"], linewidth=1.0)
    axes.set_ylabel("temperature, °C")
