"""Writes what an encoder found as the answer that a generator would give: JSON that follows the output schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.taskform import LABEL


def classification(
    labels: Sequence[str], shares: Mapping[str, float], alternatives: int | None
) -> tuple[str, tuple[TokenLogprob, ...]]:
    """The answer with the likeliest of *labels*, and its tokens, if *alternatives* to each are asked for.

    Args:
        labels: As the request writes them.
        shares: Every label that the model knows, in lower case -> the natural logarithm of its share.
        alternatives: How many likeliest labels to give.
    """
    spelled = {name: name for name in shares} | {label.lower(): label for label in labels}
    chosen = max(labels, key=lambda label: shares[label.lower()])
    before, rest = _split(chosen)
    answer = before + rest
    if alternatives is None:
        return answer, ()
    likeliest = sorted(shares, key=shares.__getitem__, reverse=True)[:alternatives]
    top = tuple(_alternative(_split(spelled[name])[1], shares[name]) for name in likeliest)
    opening = TokenLogprob(token=before, logprob=0.0, bytes=before.encode())
    last = TokenLogprob(token=rest, logprob=shares[chosen.lower()], bytes=_bytes(rest), top=top)
    return answer, (opening, last)


def _split(label: str) -> tuple[str, str]:
    """The answer of *label*, up to it and from it on."""
    whole, written = json.dumps({LABEL: label}, ensure_ascii=False), json.dumps(label, ensure_ascii=False)
    at = len(whole) - len(written)  # of the quote that begins it, as a brace follows the one that ends it
    return whole[:at], whole[at:]


def _alternative(text: str, log: float) -> Alternative:
    return Alternative(token=text, logprob=log, bytes=_bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def extraction(kinds: Mapping[str, int], found: Iterable[tuple[str, str]]) -> str:
    """The answer with what was *found*, pairs of a kind in lower case and a text, each text once.

    *kinds* is a property -> how many texts it may list; for 0 it has the first text, or null.
    """
    texts: dict[str, dict[str, None]] = {}
    for kind, text in found:
        texts.setdefault(kind, {})[text] = None
    lists = {name: list(texts.get(name.lower(), ())) for name in kinds}
    answer = {name: lists[name][:most] if most else next(iter(lists[name]), None) for name, most in kinds.items()}
    return json.dumps(answer, ensure_ascii=False)
