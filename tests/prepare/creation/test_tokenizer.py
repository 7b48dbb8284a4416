"""A tokenizer is learnt from data: the same bytes each time, every text comes back, and what is unusable is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.creation.tokenizer import TrainTokenizer
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.step import Input
from tests.prepare.creation.conftest import TEMPLATE, WORDS, World


def _load(world: World, name: str = "tokenizer") -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(world.root / name))


def test_the_same_data_gives_the_same_bytes(world: World) -> None:
    outcome = world.tokenizer("one", chat_template=world.template())
    world.tokenizer("two", chat_template=world.template())
    names = sorted(path.name for path in (world.root / "one").iterdir())
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (world.root / "one" / name).read_bytes() == (world.root / "two" / name).read_bytes()
    assert outcome.metrics["vocabulary"] == 300
    assert 1 < outcome.metrics["bytes_per_token"] < 8


def test_special_tokens_have_the_first_numbers_and_are_never_split(world: World) -> None:
    world.tokenizer(pad_token="<|pad|>", begin_token="<|begin|>", chat_template=world.template())
    tokenizer = _load(world)
    specials = ["<|pad|>", "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert tokenizer.convert_tokens_to_ids(specials) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 4)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "rain"}], return_dict=False)
    assert (ids[0], ids[-1]) == (2, 4)
    assert len(tokenizer) == 300


def test_conversations_and_labelled_texts_are_learnt_from_too(world: World) -> None:
    text = " ".join(WORDS)
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    chat = world.data([{"messages": turns}] * 2, DataFormat.CHAT, "chat")
    labelled = world.data([{"text": text, "label": "a"}] * 4, DataFormat.LABELLED, "labelled")
    tagged = world.data([{"tokens": WORDS, "tags": WORDS}] * 4, DataFormat.TAGGED, "tagged")
    for data in (chat, labelled, tagged):
        world.tokenizer(f"of-{data.name}", data)
    files = {(world.root / f"of-{data.name}" / "tokenizer.json").read_bytes() for data in (chat, labelled, tagged)}
    assert len(files) == 1


def test_an_encoders_tokenizer_encloses_texts(world: World) -> None:
    world.tokenizer(begin_token="<|begin|>", enclose=True)
    tokenizer = _load(world)
    ids = tokenizer("the rain")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_no_token_crosses_the_pieces(world: World) -> None:
    world.tokenizer(pieces=r"\p{N}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+")
    assert _load(world).tokenize("4242") == list("4242")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("tokenizers")
    world = World(tmp_path_factory.mktemp("learnt"))
    world.tokenizer()
    return _load(world)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_comes_back(learnt: Any, text: str) -> None:
    if "<|" not in text:
        assert learnt.decode(learnt(text)["input_ids"]) == text


def _refused(message: str, call: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 4000}, r"gives \d+ tokens, and `vocabulary` is 4000: lower it to \d+"),
        ({"vocabulary": 258}, "256 bytes and 3 special tokens leave none to learn: raise it above 259"),
        ({"vocabulary": 100}, "is not a whole number from 257"),
        ({"end_token": ""}, "never ends its answers"),
        ({"enclose": True}, "`enclose` needs a `begin_token`"),
        ({"pieces": "("}, "`pieces` is no regular expression"),
    ],
)
def test_an_unusable_option_is_refused(options: dict[str, Any], message: str, world: World) -> None:
    _refused(message, lambda: world.tokenizer(**options))
    out = world.root / "tokenizer"
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TEMPLATE.replace("{{ eos_token }}", ""), "writes no end token"),
        ("{% for m in messages %}", "refuses a conversation"),
        ("{{ messages[0].content.nothing() }}", "refuses a conversation"),
    ],
)
def test_a_template_that_cannot_be_learnt_from_is_refused(template: str, message: str, world: World) -> None:
    _refused(message, lambda: world.tokenizer(chat_template=world.template(template)))


def test_data_without_text_is_refused(world: World) -> None:
    _refused("has no text to learn from", lambda: world.tokenizer("one", world.data([], name="empty")))
    _refused("has no text to learn from", lambda: world.tokenizer("two", world.data([{"text": " "}], name="blank")))
    blocks = world.data([{"input_ids": [1]}], DataFormat.BLOCKS, "blocks")
    _refused("without `block_tokens`", lambda: world.tokenizer("three", blocks))


def test_the_largest_vocabulary_that_the_message_names_is_given(world: World) -> None:
    with pytest.raises(ConfigError) as refused:
        world.tokenizer("one", vocabulary=4000)
    found = re.search(r"lower it to (\d+)", str(refused.value))
    assert found
    assert world.tokenizer("two", vocabulary=int(found[1])).metrics["vocabulary"] == int(found[1])
    assert len(json.loads((world.root / "two" / "tokenizer.json").read_text())["model"]["vocab"]) == int(found[1])


def test_options_made_in_python_are_checked(world: World) -> None:
    _refused("is not a whole number of at least 1", lambda: TrainTokenizer(data=Input("x"), least=0))
