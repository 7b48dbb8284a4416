"""Makes the tokens of a classification as a model with some tokenizer would give them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from hybrid_llm.core.logprobs import Alternative, TokenLogprob


def pieces_of(label: str, cuts: Sequence[int]) -> list[bytes]:
    """`label"}` in pieces that end at *cuts*."""
    whole = json.dumps(label, ensure_ascii=False)[1:].encode() + b"}"
    ends = sorted({min(max(1, cut), len(whole)) for cut in cuts} | {len(whole)})
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def answer_tokens(
    chosen: str, shares: Mapping[str, float], cuts: Mapping[str, Sequence[int]], most: int = 20
) -> tuple[TokenLogprob, ...]:
    """The tokens of the answer *chosen* of a model whose labels have these *shares*, each in the pieces of *cuts*.

    The model's distribution over the next piece is that over the labels that go on as the answer has so far.
    """
    written = {label: pieces_of(label, cuts.get(label, ())) for label in shares}
    opening = b'{"label": "'
    tokens = [TokenLogprob(token="", logprob=0.0, bytes=opening)]
    before: tuple[bytes, ...] = ()
    for piece in written[chosen]:
        left = {label: each for label, each in written.items() if tuple(each[: len(before)]) == before}
        total = sum(shares[label] for label in left)
        mass: dict[bytes, float] = {}
        for label, each in left.items():
            following = each[len(before)] if len(each) > len(before) else b"}"
            mass[following] = mass.get(following, 0.0) + shares[label] / total
        top = sorted(mass.items(), key=lambda pair: -pair[1])[:most]
        alternatives = tuple(Alternative(token="", logprob=math.log(p), bytes=data) for data, p in top)
        tokens.append(TokenLogprob(token="", logprob=math.log(mass[piece]), bytes=piece, top=alternatives))
        before = (*before, piece)
    return tuple(tokens)
