"""Packing: blocks of one length in which no token of a document is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.packing import ModelTokenizer, Packer
from hybrid_llm.prepare.data.records import Record

if TYPE_CHECKING:
    from tests.prepare.data.conftest import Preparer

NODE = Path(__file__).parents[3] / "examples" / "models" / "hybrid-demo-node"
END = 0


@given(documents=st.lists(st.lists(st.integers(1, 9), max_size=30), max_size=12), length=st.integers(1, 16))
def test_packing_loses_no_token(documents: list[list[int]], length: int) -> None:
    packer = Packer(length, END)
    blocks = [block for document in documents for block in packer.add(document)] + list(packer.finish())
    assert all(len(block) == length for block in blocks)
    stream = [token for block in blocks for token in block]
    expected = [token for document in documents for token in [*document, END]]
    assert stream[: len(expected)] == expected
    assert stream[len(expected) :] == [END] * packer.padding
    assert packer.padding < length
    assert packer.tokens == len(expected)


def test_texts_become_blocks_of_the_models_tokens(prepare: Preparer) -> None:
    texts = [f"This is the text with the number {number}." for number in range(30)]
    source = prepare.write("a.txt", "\n".join(texts))
    folder = prepare.run(source, tokenizer=NODE, block_tokens=32, duplicates="exact")
    assert folder.card.format is DataFormat.BLOCKS
    blocks = [record["input_ids"] for record in folder.records("all")]
    assert {len(block) for block in blocks} == {32}
    tokenizer = ModelTokenizer(NODE)
    assert folder.card.tokenizer == tokenizer.digest
    documents: list[list[int]] = [[]]
    for token in (token for block in blocks for token in block):
        documents[-1].append(token)
        if token == tokenizer.end:
            documents.append([])
    found = [document[:-1] for document in documents if len(document) > 1]
    encoded = [tokenizer.encode(Record(format=DataFormat.TEXT, texts=(text,))) for text in texts]
    assert sorted(found) == sorted(encoded)
    assert folder.card.figures["pack"]["tokens"]["all"] == sum(map(len, encoded)) + 30


def test_conversations_are_written_by_the_chat_template(prepare: Preparer) -> None:
    from tokenizers import Tokenizer

    rows = [{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}]
    folder = prepare.run(prepare.rows("a.jsonl", rows), tokenizer=NODE, block_tokens=64)
    ids = next(folder.records("all"))["input_ids"]
    text = Tokenizer.from_file(str(NODE / "tokenizer.json")).decode(ids, skip_special_tokens=False)
    assert "Hello" in text
    assert "Good day" in text
    assert len(text) > len("HelloGood day")


def test_what_cannot_be_packed_is_an_error(prepare: Preparer) -> None:
    rows = prepare.rows("a.jsonl", [{"text": "one", "label": "x"}])
    with pytest.raises(ConfigError, match="`labelled` cannot be packed"):
        prepare.run(rows, tokenizer=NODE, block_tokens=8)
    prepare.write("model/tokenizer.json", "{}")
    for folder, message in (("model", "is no tokenizer"), ("other", "is missing")):
        with pytest.raises(ConfigError, match=message):
            prepare.run(rows, tokenizer=prepare.root / folder, block_tokens=8)
