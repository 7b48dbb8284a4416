"""From the log-probabilities of an answer's tokens to a probability for each label, whatever the tokenizer.

The answer is followed token by token, for as long as another label might go on as it does. Where an alternative leaves
it, its probability goes to the label that begins so.
A label that is among no alternatives is at most as likely as the least of them: it gets that, so that the score of the
answer is never too high.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.taskform import LABEL

_VALUE: Final = re.compile(rb'\s*\{\s*"' + LABEL.encode() + rb'"\s*:\s*"')
"""What an answer has before its label."""


def label_logs(
    tokens: Sequence[TokenLogprob], labels: Sequence[str], chosen: str
) -> tuple[dict[str, float], list[str]]:
    """Label -> the natural logarithm of its probability, not normalised; and those of which only a bound is known.

    Args:
        tokens: Those of the answer, `{"label": "..."}`; without them nothing is known.
        labels: All labels.
        chosen: The label that the answer names.
    """
    written = {label: _written(label) for label in labels}
    found: dict[str, list[float]] = {label: [] for label in labels}
    own, steps = 0.0, list(_of_value(tokens, len(written[chosen])))
    bounds = dict.fromkeys(labels, -math.inf)
    for token, start in steps:
        done, skipped = written[chosen][: max(0, start)], max(0, -start)
        following = [label for label in labels if label != chosen and written[label].startswith(done)]
        if not following:  # what tells the labels apart is over: how one ends is no reason for or against it
            break
        rests = {label: written[label][len(done) :] for label in following}
        for other in token.top:
            begun = [label for label, rest in rests.items() if _begins(other, token, skipped, rest)]
            for label in begun if other.bytes != token.bytes else ():
                found[label].append(own + other.logprob - math.log(len(begun)))
        for label, rest in rests.items():
            if token.top and not _begins(token, token, skipped, rest):
                bounds[label] = own + token.top[-1].logprob
        own += token.logprob
    found[chosen] = [own]
    if not steps or any(not each and bounds[label] == -math.inf for label, each in found.items()):
        return {}, []  # the tokens that tell the labels apart have no alternatives, as under pseudonyms
    logs = {label: _log_sum(each) if each else min(bounds[label], own) for label, each in found.items()}
    return logs, [label for label, each in found.items() if not each]


def _written(label: str) -> bytes:
    """*label* as JSON has it, after the quote that begins it, and with the one that ends it."""
    return json.dumps(label, ensure_ascii=False)[1:].encode("utf-8", "surrogatepass")


def _of_value(tokens: Sequence[TokenLogprob], size: int) -> Iterator[tuple[TokenLogprob, int]]:
    """The tokens that hold the label, each with where it begins in it: below 0 where it has some of what is before."""
    whole = b"".join(token.bytes for token in tokens)
    begins = _VALUE.match(whole)
    if begins is None:
        return
    at = -begins.end()
    for token in tokens:
        if at + len(token.bytes) > 0 and at < size:
            yield token, at
        at += len(token.bytes)


def _begins(other: Alternative, token: Alternative, skipped: int, rest: bytes) -> bool:
    """Whether *rest*, of a label, may go on with *other* in the place of *token*, whose first bytes are *skipped*."""
    piece = other.bytes[skipped:]
    same = other.bytes[:skipped] == token.bytes[:skipped]
    return same and bool(piece) and (rest.startswith(piece) or piece.startswith(rest))


def chosen_log(tokens: Sequence[TokenLogprob], label: str, labels: Sequence[str]) -> float:
    """The natural logarithm of the probability of *label*, which is the answer, up to where no other label goes on."""
    written = _written(label)
    others = [_written(other) for other in labels if other != label]
    steps = _of_value(tokens, len(written))
    return math.fsum(
        token.logprob for token, start in steps if any(other.startswith(written[: max(0, start)]) for other in others)
    )


def shares(logs: Mapping[str, float]) -> dict[str, float]:
    """The softmax of *logs*: label -> probability, together 1, the likeliest first."""
    total = _log_sum(list(logs.values()))
    found = {label: math.exp(log - total) for label, log in logs.items()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def mean_logs(parts: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """The mean of the normalised logarithms of the pieces of a text, each with its weight."""
    weight = math.fsum(each for each, _ in parts)
    totals = [(each, logs, _log_sum(list(logs.values()))) for each, logs in parts]
    return {
        label: math.fsum(each * (logs[label] - total) for each, logs, total in totals) / weight for label in parts[0][1]
    }


def _log_sum(logs: Sequence[float]) -> float:
    highest = max(logs)
    return highest + math.log(math.fsum(math.exp(log - highest) for log in logs))
