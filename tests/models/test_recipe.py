"""The recipe draws the same for the same seed, keeps held-out content apart, and asks nothing that it answers wrong."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")

from examples.models.recipe.conversations import conversations
from examples.models.recipe.held_out import file_name, held_out_items
from examples.models.recipe.tasks import (
    EVALUATED,
    MIXTURE,
    arithmetic,
    draw,
    extraction,
    held_out,
    questions,
    rewriting,
)
from examples.models.recipe.tasks.reviews import natural, training_sentences
from hybrid_llm.prepare.evaluation.answers import Answer, Item
from hybrid_llm.prepare.evaluation.metrics.metric import METRICS, Setting
from hybrid_llm.prepare.evaluation.tasks.generate import Generate

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "backends/edge/models/hybrid-demo-edge", ROOT / "examples/models/hybrid-demo-node"]
SPECIAL_TOKENS = (PAD, BEGIN, END, ASSISTANT) = ("<|pad|>", "<|begin|>", "<|end|>", "<|assistant|>")
CHAT_TEMPLATE = (ROOT / "examples/models/recipe/chat_template.jinja").read_text(encoding="utf-8")
SUITE = yaml.safe_load((ROOT / "examples/models/demonstration.suite.yaml").read_text(encoding="utf-8"))["tasks"]
CONTEXT = {"hybrid-demo-edge": 512, "hybrid-demo-node": 2048}
PRESENT = [folder for folder in FOLDERS if (folder / "manifest.json").exists()]
SEEDS = st.integers(0, 10**6)
NUMBERS = st.integers(0, 9999)


@pytest.fixture(scope="module")
def tokenizer():
    """The tokenizer as shipped."""
    from tokenizers import Tokenizer

    if not PRESENT:
        pytest.skip("no model folder in this checkout")
    return Tokenizer.from_file(str(PRESENT[0] / "tokenizer.json"))


@given(SEEDS, st.sampled_from(MIXTURE))
def test_a_seed_decides_the_example(seed, share):
    assert draw(share.task, Random(seed), "train") == draw(share.task, Random(seed), "train")


@given(SEEDS, st.sampled_from(EVALUATED), st.sampled_from(["train", "held_out"]))
def test_an_example_belongs_to_its_split(seed, task, split):
    assert held_out(draw(task, Random(seed), split).key) == (split == "held_out")


def test_held_out_items_are_different_from_each_other_and_from_training():
    items = held_out_items(20)
    assert len({item.prompt for item in items}) == len(items)
    keys = {item.key for item in items}
    rng = Random(1)
    assert not keys & {draw(share.task, rng, "train").key for share in MIXTURE for _ in range(200)}


def test_unrelated_text_comes_from_training_sentences_only():
    assert not any(held_out(text) for text in training_sentences())


@given(NUMBERS, st.sampled_from("+-*"), NUMBERS)
def test_the_working_leads_to_the_result(a, sign, b):
    a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b % 10 if sign == "*" else b)
    text = arithmetic.answer(a, sign, b)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert int(re.findall(r"\d+", text)[-1]) == value
    for left, right in re.findall(r"([\d+*-]+)=(\d+)", text):
        assert eval(left) == int(right)


@given(SEEDS, st.sampled_from([arithmetic.small, arithmetic.three_digits, arithmetic.four_digits]))
def test_the_prompt_asks_for_the_result(seed, task):
    example = task(Random(seed))
    a, b = map(int, re.findall(r"\d+", example.prompt))
    assert int(example.final) in {a + b, abs(a - b), a * b}


@given(SEEDS, st.sampled_from([extraction.few_fields, extraction.many_fields]))
def test_extracted_values_stand_in_the_text(seed, task):
    example = task(Random(seed))
    fields = json.loads(example.answer)
    assert fields
    assert all(value in example.prompt for value in fields.values())


@given(SEEDS)
def test_the_answer_to_a_question_stands_in_the_passage(seed):
    example = questions.few_sentences(Random(seed))
    for text in (example.answer, *(answer for _, answer in example.follow_ups)):
        assert text.rstrip(".").lower() in example.prompt.lower()


@given(st.integers(1, 9999))
def test_numbers_in_words_say_each_digit(number):
    words = rewriting.in_words(number).replace("-", " ").split()
    values = {word: value for value, word in enumerate(rewriting.ONES)}
    values |= {word: 10 * value for value, word in enumerate(rewriting.TENS)}
    total = part = 0
    for word in words:
        if word == "thousand":
            total, part = part * 1000, 0
        elif word == "hundred":
            part *= 100
        elif word != "and":
            part += values[word]
    assert total + part == number


def test_reviews_read_naturally():
    assert natural("a warm , funny film . ") == "A warm, funny film."
    assert natural('he calls it " art " ( really ) .') == 'He calls it "art" (really).'


@given(SEEDS, st.sampled_from(EVALUATED))
def test_the_suite_judges_the_expected_answer_as_right_and_an_empty_one_as_wrong(seed, task):
    example = draw(task, Random(seed), "held_out")
    options = SUITE[file_name(example.task).removesuffix(".jsonl")]
    judge = Generate(data=Path(options["data"]), extract=options.get("extract", ""))
    item = Item(references=(judge.compared(example.final),))
    (metric,) = options["metrics"]
    answers = [Answer(text=judge.compared(text)) for text in (example.answer, "")]
    assert METRICS.get(metric).numbers([item] * 2, answers, Setting())[:, 0].tolist() == [1.0, 0.0]


def test_the_suite_has_a_task_for_each_file():
    assert set(SUITE) == {file_name(item.task).removesuffix(".jsonl") for item in held_out_items(20)}


@pytest.mark.parametrize("size", ["edge", "node"])
def test_a_seed_decides_the_conversations(size):
    drawn, again = (list(conversations(size, 40, seed=3)) for _ in range(2))
    assert drawn == again != list(conversations(size, 40, seed=4))
    for messages in drawn:
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"] == message["content"].strip() != "" for message in messages)


@given(text=st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_the_tokenizer_gives_every_text_back(tokenizer, text):
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(number=st.integers(0, 10**9))
def test_every_digit_is_one_token(tokenizer, number):
    assert tokenizer.encode(str(number)).tokens == list(str(number))


@given(seed=SEEDS)
def test_the_tokenizer_gives_json_back(tokenizer, seed):
    answer = extraction.many_fields(Random(seed)).answer
    assert json.loads(tokenizer.decode(tokenizer.encode(answer).ids)) == json.loads(answer)


def _sandboxed(messages, *, prompt):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment().from_string(CHAT_TEMPLATE)
    return template.render(messages=messages, add_generation_prompt=prompt, bos_token=BEGIN, eos_token=END)


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text("aZ 9.\n{}")}),
    min_size=1,
    max_size=4,
)


def test_the_template_ends_with_the_assistants_turn():
    text = _sandboxed([{"role": "user", "content": "Hi"}], prompt=True)
    assert text == f"{BEGIN}<|user|>Hi{END}{ASSISTANT}"


@pytest.mark.parametrize("folder", PRESENT, ids=lambda folder: folder.name)
def test_the_shipped_models_have_this_template(folder):
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


@pytest.mark.skipif(not PRESENT, reason="no model folder in this checkout")
def test_transformers_renders_the_template_in_the_same_way():
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(str(PRESENT[-1]))

    @given(MESSAGES, st.booleans())
    def same(messages, prompt):
        rendered = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert rendered == _sandboxed(messages, prompt=prompt)

    same()


@pytest.mark.parametrize("folder", PRESENT, ids=lambda folder: folder.name)
def test_the_manifest_names_every_file_with_its_digest(folder):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert manifest["context_window"] == CONTEXT[folder.name]
