"""The plots of a report, drawn by matplotlib as SVG to embed in a page.

Colours are CSS variables, so that one drawing works on light and dark backgrounds. Lines also differ in dashes, and
areas in hatches, for readers who cannot distinguish the colours (palette after Okabe and Ito, 2008).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, Final, cast

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.lab.simulate.compare import Comparison, Summary
from hybrid_llm.lab.simulate.engine import Outcome, Sample, Status
from hybrid_llm.lab.simulate.trace import DAY_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PAINT: Final = {
    "ink": "#010101",
    "faint": "#020202",
    "shade": "#030303",
    "paper": "#040404",
    **{
        name: f"#0a0a{number:02x}"
        for number, name in enumerate(
            (
                "edge",
                "cloud",
                "slow",
                "refused",
                "failed",
                "late",
                "off",
                "unanswered",
                "left",
                "energy",
                "rest",
                "load",
            ),
            1,
        )
    },
    **{f"policy{number}": f"#0b0b{number:02x}" for number in range(1, 7)},
}
"""Name of a CSS variable -> the colour that stands for it in the drawing. Each colour means one thing in all plots."""

_DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
_HATCHES: Final = {"failed": "xxxx", "refused": "////", "late": "....", "off": "----", "left": "++++"}
_POINTS: Final = 240
_BINS: Final = 48
_SIZE: Final = 6.6, 3.3
_NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}
_SINCE_START: Final = "hours since the start of the trace"
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


Draw = Callable[["Axes", Comparison], None]
Part = tuple[str, str, Callable[[Summary], float]]
"""Label, name of the colour, value."""

_UNANSWERED: Final[Sequence[Part]] = (
    ("refused: no eligible backend", "refused", lambda one: one.refused),
    ("failed", "failed", lambda one: one.failed),
    ("late", "late", lambda one: one.late),
    ("battery empty", "off", lambda one: one.off),
)
_ROUTES: Final[Sequence[Part]] = (
    ("answered on the device", "edge", lambda one: one.edge),
    ("answered in the cloud", "cloud", lambda one: one.cloud),
    *_UNANSWERED,
)
_MISSED: Final[Sequence[Part]] = (("first token after the goal", "slow", lambda one: one.slow), *_UNANSWERED)
_ENERGY: Final[Sequence[Part]] = (
    ("for answers (model and radio)", "energy", lambda one: one.model_energy_wh),
    ("everything else", "rest", lambda one: one.energy_wh - one.model_energy_wh),
)
_PRIVACY: Final[Sequence[Part]] = (
    ("answered on the device", "edge", lambda one: one.bound_answered),
    ("no answer", "unanswered", lambda one: one.bound - one.bound_answered - one.bound_left),
    ("left the device", "left", lambda one: one.bound_left),
)


def plots(comparison: Comparison) -> list[str]:
    """All plots of a report, each as an HTML `figure`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ConfigError(f"the report needs matplotlib: {install_hint('report')}") from None
    with mpl.rc_context(cast(Any, _STYLE)):
        return [_figure(title, about, _svg(draw, comparison, title)) for title, about, draw in _listed(comparison)]


def _figure(title: str, about: str, svg: str) -> str:
    return f"<figure><h3>{escape(title)}</h3><figcaption>{escape(about)}</figcaption>{svg}</figure>"


def _listed(comparison: Comparison) -> Iterator[tuple[str, str, Draw]]:
    goal = comparison.goal_ms
    with_goal = f" The vertical line is the goal, {goal:g} ms." if goal is not None else ""
    yield "Outcomes of requests", "Share of all requests, by policy.", partial(_shares, parts=_ROUTES, most=100.0)
    yield (
        "Missed service levels",
        "Share of all requests that were slow or had no answer.",
        partial(_shares, parts=_MISSED),
    )
    yield (
        "Time to the first token",
        f"Share of the answered requests whose first token came within this time.{with_goal}",
        partial(_times, value=lambda one: one.ttft_ms, goal=goal),
    )
    yield (
        "Time of the whole answer",
        "Share of the answered requests that were complete within this time.",
        partial(_times, value=lambda one: one.total_ms),
    )
    yield "Load", "Requests that arrive in each part of the trace.", _load
    yield "Cost", f"Spent since the start, {comparison.currency}.", _cost
    yield (
        "Energy of the device",
        "Base load, and the part that answers took.",
        partial(_bars, parts=_ENERGY, form="{:.1f}", label="energy, Wh"),
    )
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


def _svg(draw: Draw, comparison: Comparison, title: str) -> str:
    """The drawing without what only a file needs, in the page's colours."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    draw(axes, comparison)
    if axes.get_legend_handles_labels()[0] and not figure.legends:
        figure.legend(loc="outside lower center", ncols=3)
    target = io.StringIO()
    cast(Any, FigureCanvasSVG(figure)).print_svg(target, metadata=_NO_METADATA)
    text = target.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg)[^>]*?(viewBox="[^"]*")[^>]*>', rf'\1 role="img" aria-label="{title}" \2>', svg, count=1)
    svg = svg.replace('xlink:href="#', 'href="#')
    for name, colour in PAINT.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip()


def _names(comparison: Comparison) -> list[str]:
    """Labels of the policies; those with the same name get a part of their digest."""
    names = [one.policy for one in comparison.summaries]
    return [
        name if names.count(name) == 1 else f"{name} {one.digest[:4]}"
        for name, one in zip(names, comparison.summaries, strict=True)
    ]


# ---- bars: one for each policy


def _bars(axes: Axes, comparison: Comparison, parts: Sequence[Part], form: str, label: str) -> None:
    """Horizontal bars made of parts; *form* writes the figures in them."""
    names = _names(comparison)
    left = [0.0] * len(names)
    for part, colour, value in parts:
        widths = [value(one) for one in comparison.summaries]
        if not any(widths):
            continue
        bars = axes.barh(
            names,
            widths,
            left=left,
            height=0.62,
            label=part,
            color=PAINT[colour],
            hatch=_HATCHES.get(colour, ""),
            edgecolor=PAINT["paper"],
            linewidth=0.8,
        )
        _annotate(axes, bars, left, widths, form)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)


def _annotate(axes: Axes, bars: Any, left: Sequence[float], widths: Sequence[float], form: str) -> None:
    """Write the figure into each part that is wide enough for it."""
    whole = max(a + b for a, b in zip(left, widths, strict=True))
    for bar, width in zip(bars, widths, strict=True):
        if width > 0.11 * whole:
            middle = bar.get_x() + width / 2.0, bar.get_y() + bar.get_height() / 2.0
            box = {"boxstyle": "round,pad=0.2", "facecolor": PAINT["paper"], "edgecolor": "none"}
            axes.text(*middle, form.format(width), ha="center", va="center", fontsize=8.0, bbox=box)


def _shares(axes: Axes, comparison: Comparison, parts: Sequence[Part], most: float | None = None) -> None:
    """Bars of shares of all requests."""
    shares = [(label, colour, partial(_share, count=count)) for label, colour, count in parts]
    _bars(axes, comparison, shares, "{:.1f} %", "share of the requests, %")
    if most is not None:
        axes.set_xlim(0.0, most)


def _share(one: Summary, count: Callable[[Summary], float]) -> float:
    return 100.0 * count(one) / max(1, one.requests)


def _privacy(axes: Axes, comparison: Comparison) -> None:
    _bars(axes, comparison, _PRIVACY, "{:.0f}", "requests")
    would = [one.would_leave for one in comparison.summaries]
    heights = [number + 0.4 for number in range(len(would))]
    bars = axes.barh(
        heights, would, height=0.14, facecolor="none", edgecolor=PAINT["ink"], label="would have left without tags"
    )
    axes.bar_label(bars, fmt="%d", padding=3, fontsize=8.0)
    axes.figure.legend(loc="outside lower center", ncols=2)


# ---- lines: one for each policy


def _line(number: int) -> dict[str, Any]:
    return {
        "color": PAINT[f"policy{number % 6 + 1}"],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 1.5 if number else 2.4,
    }


def _times(axes: Axes, comparison: Comparison, value: Callable[[Outcome], float], goal: float | None = None) -> None:
    """The shares of the answered requests that were as fast as each time."""
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
    axes.grid(alpha=0.6)


def _course(axes: Axes, comparison: Comparison, value: Callable[[Sample], float], label: str) -> None:
    """A value over the time of the trace."""
    for number, (name, run) in enumerate(zip(_names(comparison), comparison.runs, strict=True)):
        hours = [sample.at_s / 3600.0 for sample in run.samples]
        axes.plot(hours, [value(sample) for sample in run.samples], label=name, **_line(number))
    edges = [at_s / 3600.0 for at_s in comparison.setting.offline.edges]
    hatched = {"facecolor": "none", "edgecolor": PAINT["faint"], "hatch": "///", "linewidth": 0.0}
    for number, (begin, end) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        axes.axvspan(begin, end, label=None if number else "offline", **cast(Any, hatched))
    axes.set_xlim(0.0, _hours(comparison))
    axes.set_xlabel(_SINCE_START)
    axes.set_ylabel(label)
    axes.grid(alpha=0.6)


def _hours(comparison: Comparison) -> float:
    return max(sample.at_s for run in comparison.runs for sample in run.samples) / 3600.0


def _load(axes: Axes, comparison: Comparison) -> None:
    end = _hours(comparison)
    axes.hist(
        [one.at_s / 3600.0 for one in comparison.trace.arrivals], bins=_BINS, range=(0.0, end), color=PAINT["load"]
    )
    axes.set_xlim(0.0, end)
    axes.set_xlabel(_SINCE_START)
    axes.set_ylabel(f"requests in {60.0 * end / _BINS:.3g} minutes")
    axes.grid(axis="y", alpha=0.6)


def _cost(axes: Axes, comparison: Comparison) -> None:
    _course(axes, comparison, lambda sample: sample.cost, f"cost, {comparison.currency}")
    axes.set_ylim(bottom=0.0)


def _battery(axes: Axes, comparison: Comparison) -> None:
    daily, end = comparison.setting.world.battery.days, _hours(comparison) * 3600.0
    now = 0.0
    while now < end and daily.spans:
        until = min(end, daily.next_edge(now))
        if daily.covers((now + until) / 2.0):
            axes.axvspan(now / 3600.0, until / 3600.0, color=PAINT["shade"], linewidth=0.0)
        now = until if until > now else now + DAY_S
    _course(axes, comparison, lambda sample: 100.0 * (sample.battery or 0.0), "charge, %")
    axes.set_ylim(0.0, 101.0)


def _temperature(axes: Axes, comparison: Comparison) -> None:
    _course(axes, comparison, lambda sample: sample.temperature_c, "temperature, °C")
    axes.axhline(comparison.setting.world.thermal.throttle_from_c, color=PAINT["ink"], linewidth=1.0)
