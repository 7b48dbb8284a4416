"""The part of the page about the route: backends, rules with what they read, and how sure the answer is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from hybrid_llm.core.decision import Decision
from hybrid_llm.prepare.explain.routing import Answered, Routed, Written

UNCERTAIN: Final = 0.5
"""A token less probable than this is called uncertain."""
_STRONG: Final = 0.6
_LISTED: Final = 50


def route_section(routed: Routed) -> Iterator[str]:
    """The route, and the answers where there are some."""
    decision = routed.decision
    yield "<h2>Why it takes this route</h2>"
    order = " › ".join(decision.order) or "no backend is eligible"
    yield f"<p><b>{escape(order)}</b>, by {escape(decision.rule)}: {escape(decision.because)}</p>"
    yield f'<p class="faint">Policy {escape(decision.policy)} ({escape(decision.digest)}); '
    yield f"tags: {escape(', '.join(sorted(decision.tags)) or 'none')}.</p>"
    if decision.excluded:
        yield "<h3>Excluded</h3><ul>"
        yield from (f"<li>{escape(line)}</li>" for line in decision.exclusions())
        yield "</ul>"
    yield from _rules(decision)
    yield from _cloud(routed)
    for number, answer in enumerate(routed.answers):
        yield from _answer(answer, last=number == len(routed.answers) - 1)


def _rules(decision: Decision) -> Iterator[str]:
    yield '<h3>Rules and the signals that they read</h3><ul class="rules">'
    for entry in decision.trace:
        holds, mark = ("holds", ' class="held"') if entry.matched else ("does not hold", "")
        because = f": {entry.because}" if entry.because and entry.because != entry.condition else ""
        yield f"<li><span{mark}>{escape(entry.rule)} {holds}{escape(because)}</span>"
        yield f"<br><code>when {escape(entry.condition)}</code>" if entry.condition else ""
        yield f'<br><span class="faint">{escape(entry.shown_values)}</span></li>'
    yield "</ul>"


def _cloud(routed: Routed) -> Iterator[str]:
    if routed.seen_by_cloud is None:
        yield "<p>This text may not go to the cloud.</p>"
    elif routed.replaced:
        kinds = ", ".join(f"{number} × {kind}" for kind, number in routed.replaced.items())
        yield f"<h3>What the cloud would see</h3><p class='faint'>With pseudonyms: {escape(kinds)}.</p>"
        yield f'<p class="text">{escape(routed.seen_by_cloud)}</p>'


def _answer(answer: Answered, *, last: bool) -> Iterator[str]:
    title = "The answer" if last else "Asked before, and not confident enough"
    yield f"<h2>{title}: {escape(answer.backend)}</h2>"
    if answer.score is not None:
        yield f"<p>Probability of the label: {answer.score:.3f}</p>"
    if not answer.tokens:
        yield f'<p class="text">{escape(answer.text)}</p><p>This backend gives no probabilities of tokens.</p>'
        return
    yield '<p class="faint">The less sure the model was of a token, the stronger its '
    yield '<span class="key doubt" style="--a:.6;--b:1">colour and dashed line</span>.</p>'
    yield '<p class="text">' + "".join(_coloured(token) for token in answer.tokens) + "</p>"
    yield from _uncertain(answer)


def _coloured(token: Written) -> str:
    doubt = 1.0 - token.probability
    style = f"--a:{_STRONG * doubt:.2f};--b:{doubt:.2f}"
    return f'<span class="t doubt" style="{style}" title="{token.probability:.3f}">{escape(token.text)}</span>'


def _uncertain(answer: Answered) -> Iterator[str]:
    doubtful = [token for token in answer.tokens if token.probability < UNCERTAIN]
    if not doubtful:
        yield f"<p>No token has a probability below {UNCERTAIN:g}.</p>"
        return
    yield f"<h3>Tokens with a probability below {UNCERTAIN:g}</h3>"
    yield '<div class="scroll"><table class="words"><thead><tr><th>token</th><th>probability</th>'
    yield "<th>it might have written</th></tr></thead><tbody>"
    for token in sorted(doubtful, key=lambda token: token.probability)[:_LISTED]:
        instead = ", ".join(f"{text.strip() or '(space)'} {share:.2f}" for text, share in token.instead[:4])
        cells = (token.text.strip() or "(space)", f"{token.probability:.3f}", instead)
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div>"
