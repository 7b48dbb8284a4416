"""A tokenizer holds no words of the prompts that it has encoded: the cache of the library holds the last 10,000."""

from __future__ import annotations

import subprocess
import sys

import pytest

MAY_GROW_MB = 15.0
"""8,000 words of 200 letters take over 60 MB in the cache."""
PROGRAM = """
import random, string, sys
import psutil
from tokenizers import Tokenizer, models, pre_tokenizers
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Message, Request

letters = {letter: number for number, letter in enumerate(string.ascii_letters + "<|>")}
model = models.BPE(letters, []) if sys.argv[1] == "BPE" else models.Unigram([(each, -1.0) for each in letters], 0)
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.add_special_tokens(["<|end|>"])
chat = ChatTokenizer(tokenizer, "{{ messages[0].content }}", eos_ids=[0])
randomly = random.Random(0)

def encode(count):
    for _ in range(count):
        words = ["".join(randomly.choices(string.ascii_letters, k=200)) for _ in range(80)]
        text = " ".join([*words, sys.argv[2]])
        assert len(chat.encode(Request(messages=(Message(role="user", content=text),)))) > 15_000

process = psutil.Process()
encode(3)
before = process.memory_info().rss
encode(100)
print((process.memory_info().rss - before) / 2**20)
"""


@pytest.mark.parametrize("words", ["", "<|end|>"], ids=["plain", "with a control token's name"])
@pytest.mark.parametrize("model", ["BPE", "Unigram"])
def test_encoding_words_that_are_all_new_takes_no_memory(model, words):
    command = [sys.executable, "-c", PROGRAM, model, words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MAY_GROW_MB
