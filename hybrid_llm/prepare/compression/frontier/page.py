"""The frontier as a table for people: a Markdown file, and a page without any outside request."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from hybrid_llm.core.html import document
from hybrid_llm.prepare.compression.frontier.plot import draw
from hybrid_llm.prepare.compression.frontier.variants import Frontier

_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #24292f }
svg { max-width: 100%; height: auto }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d0d7de; text-align: right }
th:first-child, td:first-child { text-align: left }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117 } th, td { border-color: #30363d } }
"""


def _rows(frontier: Frontier) -> Iterator[tuple[str, ...]]:
    """The head, then each variant, the best quality first."""
    unit = frontier.unit.replace("_per_", "/")
    yield "model", frontier.metric, "of the best", unit, "MB", "peak memory, MB", "on the front"
    front = {variant.name for variant in frontier.front()}
    for each in sorted(frontier.variants, key=lambda each: (-frontier.better(each.quality), each.name)):
        yield (
            each.name,
            f"{each.quality:.4g}",
            f"{frontier.relative(each):.1%}",
            f"{each.speed:,.1f}",
            f"{each.size_mb:,.1f}",
            f"{each.peak_memory_mb:,.0f}",
            "yes" if each.name in front else "",
        )


def markdown(frontier: Frontier) -> str:
    """The table as Markdown."""
    head, *rows = _rows(frontier)
    lines = [head, tuple("---" if i == 0 else "---:" for i in range(len(head))), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def html(frontier: Frontier) -> str:
    """Plot and table as one page."""
    head, *rows = _rows(frontier)
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    about = (
        "A variant is on the front if no other is at least as good in quality, speed, size and memory, and better in "
        "one. The line in each plot joins those that none beats in its two values."
    )
    lines = (
        f"<h1>Quality, speed and size</h1>{draw(frontier)}<p>{about}</p>",
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>",
    )
    return document("Frontier", lines, style=_STYLE)
