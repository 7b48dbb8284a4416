"""The tokenizer of an imported model splits, merges and restores text as the model's own tokenizer does."""

import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from hybrid_llm.backends.models.gguf.chat import write_chat_files
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.vocabulary import PRE_TOKENIZERS, read_vocabulary, write_tokenizer
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Message, Request
from tests.ggufs import SIZES, TEMPLATE, tokenizer_metadata, write_file

SAMPLES = [
    "Hello, world! It's 12345 o'clock; I'LL go.\n\n  Two  spaces\tand tabs\r\n",
    "Über die Straße — naïve café, 東京 2026年, ١٢٣ and x²=4.",
    "def f(x):\n    return x_1 + 'they''re' // 100000  # done!!!\n\n\n",
    " leading and trailing ",
    "",
]


def folder_of(path, rows=SIZES["vocab"], template=None):
    """The text files of the model in *path*, without its weights."""
    out = path.parent / "out"
    out.mkdir()
    with Gguf(path) as file:
        vocabulary = read_vocabulary(file, rows)
        write_tokenizer(vocabulary, out)
        write_chat_files(file, vocabulary, out, template)
    return out


def byte_level(path, **changes):
    return folder_of(write_file(path / "x.gguf", "llama", {}, tokenizer_metadata(SIZES["vocab"], **changes)))


def split(folder, text):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("text", SAMPLES)
def test_gpt2_and_smollm_split_as_the_rules_that_the_library_has_for_them(tmp_path, text):
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    for name, rule in {"gpt-2": plain, "smollm": digits}.items():
        folder = tmp_path / name
        folder.mkdir()
        expected = [piece for piece, _ in rule.pre_tokenize_str(text)]
        assert split(byte_level(folder, **{"ggml.pre": name}), text) == expected


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("llama-bpe", "I'LL take 12345", ["I", "'LL", "Ġtake", "Ġ", "123", "45"]),
        ("qwen2", "I'LL take 123", ["I", "'LL", "Ġtake", "Ġ", "1", "2", "3"]),
        ("qwen2", "a\n\n b", ["a", "ĊĊ", "Ġb"]),
        ("tekken", "HelloWorld 12/", ["Hello", "World", "Ġ", "1", "2", "/"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", "Ġ", "123", "4"]),
        ("default", "a=12345", ["a", "=", "123", "45"]),
    ],
)
def test_a_family_splits_by_its_own_rule(tmp_path, name, text, pieces):
    assert split(byte_level(tmp_path, **{"ggml.pre": name}), text) == pieces


@pytest.fixture(scope="module")
def of_each_rule(tmp_path_factory):
    names = sorted(PRE_TOKENIZERS)
    folders = [byte_level(tmp_path_factory.mktemp(name), **{"ggml.pre": name}) for name in names]
    return [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders]


@given(st.text())
def test_every_text_comes_back_under_every_rule(of_each_rule, text):
    for tokenizer in of_each_rule:
        expected = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == expected


SPM = {
    f"{kind}, {'prefix' if prefix else 'no prefix'}{', strips' if strips else ''}": (kind, prefix, strips)
    for kind in ("bpe", "unigram")
    for prefix in (True, False)
    for strips in (True, False)
    if kind == "unigram" or not strips
}


@pytest.fixture(scope="module", params=SPM)
def pieces(request):
    """A sentencepiece model with byte fallback, trained here: with a space before the first word or without."""
    kind, prefix, strips = SPM[request.param]
    model = io.BytesIO()
    lines = [sample for sample in SAMPLES if sample] * 4 + ["the cat sat on the mat and the dog ran to the house"] * 8
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=kind,
        vocab_size=420 if kind == "bpe" else 330,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=strips,
        add_dummy_prefix=prefix,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), SPM[request.param]


def exported_pieces(processor, rules, folder):
    model, prefix, strips = rules

    def kind(index):
        if processor.is_unknown(index):
            return 2
        return 3 if processor.is_control(index) else 6 if processor.is_byte(index) else 1

    count = processor.get_piece_size()
    metadata = {
        "tokenizer.ggml.model": {"bpe": "llama", "unigram": "t5"}[model],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.remove_extra_whitespaces": strips,
        "tokenizer.ggml.tokens": [processor.id_to_piece(index) for index in range(count)],
        "tokenizer.ggml.scores": [processor.get_score(index) for index in range(count)],
        "tokenizer.ggml.token_type": [kind(index) for index in range(count)],
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
        "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.chat_template": TEMPLATE,
    }
    return folder_of(write_file(folder / "x.gguf", "llama", {}, metadata), count)


def test_sentencepiece_vocabularies_encode_as_sentencepiece_does(pieces, tmp_path):
    processor, rules = pieces
    folder = exported_pieces(processor, rules, tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in [sample for sample in SAMPLES if sample] + ["the cat's hat", "emoji 🙂 and ẞ", "   "]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == processor.encode(text), text
        assert tokenizer.decode(ids) == (processor.decode(ids) if rules[2] else text)
    assert tokenizer.encode("the cat").ids[0] == processor.bos_id()


def chat_ids(folder):
    tokenizer = ChatTokenizer.load(folder)
    return tokenizer.encode(Request(messages=(Message(role="user", content="na"),))), tokenizer


def test_the_prompt_is_that_of_the_template_and_begins_with_bos_once(tmp_path):
    ids, tokenizer = chat_ids(byte_level(tmp_path, **{"ggml.add_bos_token": True}))
    assert ids[:2] == [0, 2]
    assert ids[-2:] == [1, 3]
    assert tokenizer.eos_ids == {1}


def test_bos_is_added_where_the_file_asks_for_it_and_its_template_does_not_write_it(tmp_path):
    bare = TEMPLATE.replace("{{ bos_token }}", "")
    ids, _ = chat_ids(byte_level(tmp_path, **{"ggml.add_bos_token": True, "chat_template": bare}))
    assert ids[:2] == [0, 2]


def test_every_token_that_ends_a_turn_ends_an_answer(tmp_path):
    metadata = tokenizer_metadata(SIZES["vocab"], **{"ggml.eot_token_id": 4})
    tokens, types = list(metadata["tokenizer.ggml.tokens"]), list(metadata["tokenizer.ggml.token_type"])
    tokens[-1], types[-1] = "<|im_end|>", 3
    tokens[-2], types[-2] = "<|end_of_text|>", 1  # a text that only looks like one
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    folder = folder_of(write_file(tmp_path / "x.gguf", "llama", {}, metadata))
    assert ChatTokenizer.load(folder).eos_ids == {1, 4, SIZES["vocab"] - 1}


def test_phi3_drops_white_space_behind_its_special_tokens_but_a_few(tmp_path):
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a", "<|user|>", "<|end|>", "<0x0A>"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -2.0, -3.0, -1.0, 0.0, 0.0, 0.0],
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 3, 3, 6],
        "tokenizer.ggml.eos_token_id": 7,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
    for architecture, expected in {"phi3": [6, 5, 7, 1, 3, 8, 4], "llama": [6, 3, 8, 4, 7, 3, 8, 1, 3, 8, 4]}.items():
        folder = tmp_path / architecture
        folder.mkdir()
        written = folder_of(write_file(folder / "x.gguf", architecture, {}, metadata), len(tokens))
        tokenizer = Tokenizer.from_file(str(written / "tokenizer.json"))
        assert tokenizer.encode("<|user|>\na<|end|>\n<s>\na", add_special_tokens=False).ids == expected


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokenizer.ggml.precompiled_charsmap": [1, 2, 3]}, "precompiled_charsmap"),
        ({"tokenizer.ggml.unknown_token_id": None}, "unknown"),
    ],
)
def test_a_unigram_vocabulary_that_cannot_be_followed_is_refused(tmp_path, changes, problem):
    tokens = ["<unk>", "<s>", "</s>", "\u2581a"]
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 4,
        "tokenizer.ggml.token_type": [2, 3, 3, 1],
        "tokenizer.ggml.unknown_token_id": 0,
        **changes,
    }
    known = {key: value for key, value in metadata.items() if value is not None}
    with (
        Gguf(write_file(tmp_path / "x.gguf", "llama", {}, known)) as file,
        pytest.raises(ConfigError, match=problem),
    ):
        read_vocabulary(file, len(tokens))
