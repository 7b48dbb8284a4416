"""A model finds names: a real, small one, trained here in seconds to tag what follows `mr` and `in`, run with ONNX."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.privacy.detectors import DETECTORS, scan
from hybrid_llm.router.privacy.detectors.models.ner import NerDetector
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

LABELS = ["O", "B-PER", "I-PER", "B-LOC"]
SYLLABLES = ["ka", "lo", "mi", "ra", "ne", "tu", "so", "vi"]
WORDS = ["the", "a", "went", "saw", "and", "talked", "about", "tea", "rain", "mr", "in", "."]
WINDOW = 32
STEPS = 200


def sentence(rng: random.Random) -> tuple[list[str], list[str]]:
    """Words and labels: two words after `mr` are a person, one after `in` is a location."""

    def name() -> str:
        return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3)))

    words, labels = [], []
    for _ in range(rng.randint(2, 12)):
        kind = rng.choice(["mr", "in", "plain", "plain", "plain"])
        words += {"mr": ["mr", name(), name()], "in": ["in", name()], "plain": [rng.choice([*WORDS[:9], ".", "?"])]}[
            kind
        ]
        labels += {"mr": ["O", "B-PER", "I-PER"], "in": ["O", "B-LOC"], "plain": ["O"]}[kind]
    return words, labels


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Train and export: WordPiece over syllables, two layers of BERT with 32 units, 200 steps on one core."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    made = tmp_path_factory.mktemp("ner")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *SYLLABLES, *("##" + s for s in SYLLABLES)]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(made / "tokenizer.json"))

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the steps are so small that more threads only wait for each other
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=WINDOW,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        attn_implementation="eager",
    )
    model = transformers.BertForTokenClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = random.Random(0)
    for _ in range(STEPS):
        ids, targets = batch(tokenizer, rng, torch)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.eval()
    (made / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    export(model, made / "model.onnx", torch)
    return made


def batch(tokenizer, rng, torch):
    rows, targets = [], []
    for _ in range(32):
        words, labels = sentence(rng)
        encoding = tokenizer.encode(words, is_pretokenized=True)
        rows.append(encoding.ids[:WINDOW])
        targets.append([-100 if w is None else LABELS.index(labels[w]) for w in encoding.word_ids][:WINDOW])
    width = max(map(len, rows))
    pad = lambda rows, value: torch.tensor([row + [value] * (width - len(row)) for row in rows])  # noqa: E731
    return pad(rows, 0), pad(targets, -100)


def export(model, path: Path, torch) -> None:
    class Logits(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits

    example = torch.ones(2, 7, dtype=torch.long)
    names, axes = ["input_ids", "attention_mask"], {0: "rows", 1: "tokens"}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(model),
            (example, example),
            str(path),
            dynamo=False,
            input_names=names,
            output_names=["logits"],
            dynamic_axes=dict.fromkeys((*names, "logits"), axes),
        )


@pytest.fixture(scope="session")
def detector(folder) -> NerDetector:
    return NerDetector(folder, labels={"PER": "person_name", "LOC": "place"})


def reported(detector: NerDetector, text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in detector.find(text)]


def test_names_are_found_whole_with_their_kinds(detector):
    assert reported(detector, "the rain and Mr Kalo Mirane talked about tea in Tusovi .") == [
        ("person_name", "Kalo Mirane"),
        ("place", "Tusovi"),
    ]
    assert reported(detector, "the rain and a tea") == []
    assert reported(detector, "") == []


def test_only_the_labels_that_are_asked_for_are_reported(folder):
    detector = NerDetector(folder, name="places", labels={"LOC": "place"})
    assert detector.name == "places"
    assert reported(detector, "mr kalo mira went in tuso") == [("place", "tuso")]
    assert set(NerDetector(folder).kinds.items()) == {("PER", "per"), ("LOC", "loc")}


def test_it_reports_whether_it_finds_names_of_people(folder):
    assert NerDetector(folder).finds_names
    assert not NerDetector(folder, labels={"LOC": "place"}).finds_names


def test_a_text_of_many_windows_is_read_to_its_end(detector):
    rng = random.Random(3)
    words, expected = [], []
    for _ in range(300):
        first, second = ("".join(rng.choices(SYLLABLES, k=2)) for _ in range(2))
        words += ["the", "rain", "and", "mr", first, second]
        expected.append(f"{first} {second}")
    found = [value for kind, value in reported(detector, " ".join(words)) if kind == "person_name"]
    assert len(set(expected) - set(found)) <= len(expected) * 0.03
    assert expected[-1] == found[-1]


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=200))
def test_no_text_makes_it_fail(detector, text):
    for finding in detector.find(text):
        assert 0 <= finding.start < finding.end <= len(text)


def test_a_lone_surrogate_is_read_as_an_unknown_character(detector):
    assert ("person_name", "kalo mira") in reported(detector, "\ud800 mr kalo mira .")


def test_it_keeps_a_request_with_a_name_on_the_device(detector):
    policy = parse_policy(
        "version: 1\nname: p\nrules: [{prefer: [cloud, edge]}]\ntags:\n  people: {allow: [edge], detect: [names]}\n",
        detectors=frozenset({"names"}),
    )
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    with HybridLLM([cloud, edge], policy, sensors=FixedSensors(), detectors=[detector]) as client:
        assert client.generate("talked about mr kalo mira").backend == "edge"
        assert client.generate("the rain and a tea").backend == "cloud"


def test_it_runs_beside_patterns(folder):
    detector = NerDetector(folder, labels={"PER": "person_name"})
    text = "mr kalo mira went . ka@example.org"
    assert [f.kind for f in scan(text, [DETECTORS["email"], detector])] == ["person_name", "email"]


def change(folder: Path, to: Path, **config) -> Path:
    shutil.copytree(folder, to)
    path = to / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return to


def test_a_folder_that_is_wrong_says_what_and_what_to_do(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"it lacks config.json, tokenizer.json, model.onnx.*models convert"):
        NerDetector(tmp_path)
    with pytest.raises(ConfigError, match="no label 'PRE'; did you mean `PER`"):
        NerDetector(folder, labels={"PRE": "person_name"})
    with pytest.raises(ConfigError, match="is missing or has gaps"):
        NerDetector(change(folder, tmp_path / "a", id2label={"0": "O", "7": "B-PER"}))
    with pytest.raises(ConfigError, match=r"has 4 labels, and id2label of config\.json has 2"):
        NerDetector(change(folder, tmp_path / "b", id2label={"0": "O", "1": "B-PER"}))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[", "not a JSON object"),
        ("tokenizer.json", "{}", "tokenizers cannot read tokenizer.json"),
        ("model.onnx", "no model", "onnxruntime .* cannot load"),
    ],
)
def test_a_file_that_is_broken_is_named(folder, tmp_path, name, text, message):
    broken = change(folder, tmp_path / "ner")
    (broken / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        NerDetector(broken)


def computing(folder: Path, to: Path, operator: str, *constants: float, **attributes: float) -> Path:
    """The model with another graph: *operator* over the numbers of the tokens, and *constants*, gives each label."""
    onnx = pytest.importorskip("onnx")
    make, shape = onnx.helper, [1, 1, len(LABELS)]
    nodes = [
        make.make_node("Cast", ["input_ids"], ["numbers"], to=onnx.TensorProto.FLOAT),
        make.make_node("Unsqueeze", ["numbers", "last"], ["column"]),
        make.make_node("Expand", ["column", "shape"], ["logit"]),
        make.make_node(operator, ["logit", *map(str, constants)], ["logits"], **attributes),
    ]
    values = [
        make.make_tensor("last", onnx.TensorProto.INT64, [1], [-1]),
        make.make_tensor("shape", onnx.TensorProto.INT64, [3], shape),
        *(make.make_tensor(str(value), onnx.TensorProto.FLOAT, [], [value]) for value in constants),
    ]
    ids = make.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["rows", "tokens"])
    logits = make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["rows", "tokens", len(LABELS)])
    graph = make.make_graph(nodes, "graph", [ids], [logits], values)
    versions = [make.make_opsetid("", 17)]
    onnx.save(make.make_model(graph, opset_imports=versions, ir_version=8), change(folder, to) / "model.onnx")
    return to


def test_what_was_read_before_is_not_computed_again(folder, tmp_path):
    """Later turns of a conversation repeat the earlier ones. What this model finds is random, so that it tells."""
    drawn = computing(folder, tmp_path / "ner", "RandomUniformLike", high=99.0)
    turns = [f"{turn} " * 20 for turn in SYLLABLES]
    forgetting, detector = NerDetector(drawn, remember=0), NerDetector(drawn)
    first = [reported(detector, turn) for turn in turns]
    assert [reported(detector, turn) for turn in turns] == first
    assert [reported(forgetting, turn) for turn in turns] != [reported(forgetting, turn) for turn in turns]


def test_numbers_that_are_none_fail_and_find_nothing_by_mistake(folder, tmp_path):
    broken = NerDetector(computing(folder, tmp_path / "ner", "Mul", float("nan")))
    with pytest.raises(ValueError, match="no numbers"):
        list(broken.find("mr kalo mira went ."))
