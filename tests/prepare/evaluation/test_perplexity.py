"""Perplexity is that of the loop in transformers' documentation, on both sides, by token and by byte."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.evaluation.decoders import encoded, open_scorer
from hybrid_llm.prepare.evaluation.perplexity import perplexity, windows


def documented_loop(folder, text, max_length, stride):
    """The loop of `docs/perplexity` of transformers, each window weighted by the tokens that its loss is of."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt").input_ids
    nll, count, previous = 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + max_length, ids.size(1))
        given_ids = ids[:, begin:end]
        target = given_ids.clone()
        target[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = model(given_ids, labels=target).loss
        tokens = int((target[:, 1:] != -100).sum())
        nll, count, previous = nll + loss.item() * tokens, count + tokens, end
        if end == ids.size(1):
            break
    return math.exp(nll / count), count


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (50, 7), (400, 100)])
def test_it_is_that_of_the_documented_loop_on_both_sides(decoders, window, stride):
    window = min(window, open_scorer(decoders / "hf").window)
    expected, tokens = documented_loop(decoders / "hf", TEXT, window, stride)
    node = perplexity(decoders / "hf", [TEXT], window=window, stride=stride)
    edge = perplexity(decoders / "fp32", [TEXT], window=window, stride=stride)
    assert node.tokens == edge.tokens == tokens
    assert node.per_token == pytest.approx(expected, rel=1e-4)
    assert edge.per_token == pytest.approx(expected, rel=1e-3)
    assert node.per_byte == pytest.approx(math.log2(expected) * tokens / node.bytes, rel=1e-4)


def test_texts_count_by_their_tokens(decoders):
    scorer = open_scorer(decoders / "fp32")
    parts = [perplexity(scorer, [text]) for text in (TEXT[:50], TEXT[50:])]
    both = perplexity(scorer, [TEXT[:50], TEXT[50:], "", "a"])
    assert both.tokens >= sum(part.tokens for part in parts)
    assert both.nats >= sum(part.nats for part in parts) - 1e-6


def test_bytes_are_those_of_the_scored_tokens(decoders):
    text = "naïve 火車 🚂 " * 3
    found = perplexity(decoders / "hf", [text])
    tokens = open_scorer(decoders / "hf").encode(text)
    assert found.bytes == len(text[tokens.starts[1] :].encode())
    begun = encoded([0, 5, 6], [(0, 0), (0, 1), (1, 4)], [1, 0, 0])
    assert begun.starts == (0, 0, 1)  # a text that an added token begins is scored as a whole


def test_nothing_to_score_and_windows_out_of_range_are_errors(decoders):
    with pytest.raises(ConfigError, match="no text has two tokens"):
        perplexity(decoders / "fp32", ["", ""])
    with pytest.raises(ConfigError, match="window"):
        perplexity(decoders / "fp32", [TEXT], window=10**6)
    with pytest.raises(ConfigError, match="stride"):
        perplexity(decoders / "fp32", [TEXT], window=8, stride=8)


def test_a_folder_that_is_no_decoder_is_an_error(tmp_path, classifiers):
    with pytest.raises(ConfigError, match=r"neither manifest.json"):
        perplexity(tmp_path, [TEXT])
    with pytest.raises(ConfigError, match="no decoder: 6 of its weights are missing"):
        perplexity(classifiers / "hf", [TEXT])


@given(length=st.integers(2, 300), window=st.integers(2, 80), data=st.data())
def test_every_token_but_the_first_is_scored_once_behind_enough_others(length, window, data):
    stride = data.draw(st.integers(1, window - 1))
    scored = []
    for begin, first, end in windows(length, window, stride):
        assert 0 <= begin < first < end <= min(length, begin + window)
        assert begin == 0 or first - begin >= window - stride
        scored += range(first, end)
    assert scored == list(range(1, length))
