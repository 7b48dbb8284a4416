"""The backend of an encoder: what it answers, what it refuses before anything runs, and how its requests end."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path

import pytest

from hybrid_llm import tasks
from hybrid_llm.backends.encoder.spec import EncoderConfig
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    NoEligibleBackend,
    RequestRejected,
)
from hybrid_llm.core.request import Location
from hybrid_llm.core.taskform import classify_schema, fenced
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.encoders import changed
from tests.fakes import FakeBackend

POLICY = "version: 1\nname: p\ntags: {phi: {allow: [edge]}}\nrules: [{prefer: [cloud, edge]}]\n"
ABOUT = classify_schema(["food", "weather"])
PEOPLE = {
    "type": "object",
    "properties": {
        "person": {"type": "array", "items": {"type": "string"}},
        "place": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["person", "place"],
}


@pytest.fixture
def client():
    """Makes clients of backends, with a cloud, and closes them."""
    made = []

    def make(*backends, policy=POLICY, **options):
        cloud = FakeBackend("cloud", Location.CLOUD, ['{"label": "food"}'])
        every = [*backends, FakeBackend("edge", Location.EDGE, ['{"label": "food"}']), cloud]
        parsed = parse_policy(policy, backends={each.name: each.location for each in every})
        made.append(HybridLLM(every, parsed, sensors=FixedSensors(), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def classify(llm, text="the storm went and saw", labels=("food", "weather"), **options):
    return llm.generate(fenced(text), task="classify", output_schema=classify_schema(labels), **options)


def test_a_text_gets_the_label_that_the_model_was_trained_to_give(encoder, texts, client):
    llm = client(encoder(texts.folder))
    assert [classify(llm, text).parsed for text in ("the storm went", "a soup and tea", "now the bread")] == [
        {"label": "weather"},
        {"label": "food"},
        {"label": "food"},
    ]


def test_it_agrees_with_transformers(encoder, texts, entities):
    """Conversion refuses what differs, and says how much; here on every clause of the text."""
    for converted in (texts, entities):
        parity = json.loads((converted.folder / "manifest.json").read_text())["parity"]
        assert parity["agreement"] >= 0.95
        assert parity["mean_shift"] < 0.05


def test_entities_are_lists_or_single_texts_as_the_schema_asks(encoder, entities, client):
    llm = client(encoder(entities.folder, labels={"PER": "person", "LOC": "place"}))
    reply = llm.generate(fenced("mr kalo mira went in tuso"), task="extract", output_schema=PEOPLE)
    assert (reply.backend, reply.parsed) == ("encoder", {"person": ["kalo mira"], "place": "tuso"})
    reply = llm.generate(fenced("the went and saw"), task="extract", output_schema=PEOPLE)
    assert reply.parsed == {"person": [], "place": None}


def test_without_a_word_of_the_policy_a_specialist_goes_first(encoder, texts, client):
    reply = classify(client(encoder(texts.folder)))
    assert reply.decision.order == ("encoder", "cloud", "edge")
    assert "encoder is made for the task classify" in reply.decision.because


def test_a_policy_that_names_it_decides_itself(encoder, texts, client):
    rule = "rules: [{prefer: [cloud, encoder], when: request.task == 'classify'}, {prefer: cloud}]\n"
    llm = client(encoder(texts.folder), policy=f"version: 1\nname: p\n{rule}")
    assert classify(llm).decision.order == ("cloud", "encoder", "edge")
    seen = "rules: [{prefer: encoder, when: encoder.specialist && encoder.ready}, {prefer: edge}]\n"
    llm = client(encoder(texts.folder), policy=f"version: 1\nname: p\n{seen}")
    assert classify(llm).decision.rule == "rules[0]"
    assert llm.decide("hello").order == ("edge", "cloud")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"task": "chat"}, "it serves the task classify alone"),
        ({"output_schema": None}, "no output schema"),
        ({"prompt": "the storm"}, "no marked text"),
        ({"output_schema": PEOPLE}, "none that it can fill"),
        ({"output_schema": classify_schema(["food", "sports", "law"])}, "it does not know 2 of the 3 labels"),
    ],
)
def test_what_it_cannot_serve_is_excluded_by_name_before_anything_runs(encoder, texts, client, options, reason):
    asked = {"prompt": fenced("the storm"), "task": "classify", "output_schema": ABOUT, **options}
    decision = client(encoder(texts.folder)).decide(**asked)
    assert "encoder" not in decision.order
    assert reason in decision.excluded["encoder"]


def test_labels_are_found_in_any_case_and_by_the_names_of_the_configuration(encoder, texts, client):
    assert classify(client(encoder(texts.folder)), labels=("FOOD", "Weather")).parsed == {"label": "Weather"}
    named = encoder(texts.folder, labels={"Weather": "outside", "Food": "kitchen"})
    assert classify(client(named), labels=("outside", "kitchen")).parsed == {"label": "outside"}


def test_a_long_text_is_read_to_its_end_in_windows(encoder, texts, entities, client):
    llm = client(encoder(texts.folder))
    reply = classify(llm, "the went and saw " * 40 + "storm rain " * 200)
    assert reply.parsed == {"label": "weather"}
    assert reply.usage.prompt_tokens > 500
    llm = client(encoder(entities.folder, labels={"PER": "person"}))
    schema = {"type": "object", "properties": {"person": PEOPLE["properties"]["person"]}, "required": ["person"]}
    text = "the went and saw " * 300 + "mr kalo mira"
    reply = llm.generate(fenced(text), task="extract", output_schema=schema)
    assert "kalo mira" in reply.parsed["person"]


def test_tags_hold_and_the_cache_answers(encoder, texts, client):
    llm = client(encoder(texts.folder), cache=MemoryCache())
    assert classify(llm, privacy={"phi"}).decision.excluded["cloud"] == "tag phi allows only edge"
    assert [classify(llm).cached for _ in range(2)] == [False, True]


def test_async_streams_and_a_cancelled_task(encoder, texts, client):
    llm = client(encoder(texts.folder))

    async def ask() -> None:
        schema = {"task": "classify", "output_schema": ABOUT}
        replies = await asyncio.gather(*(llm.agenerate(fenced("the storm"), **schema) for _ in range(20)))
        assert {reply.backend for reply in replies} == {"encoder"}
        task = asyncio.create_task(llm.agenerate(fenced("the storm " * 20_000), **schema))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    assert not llm.signals().backends["encoder"].active


def test_a_deadline_ends_a_long_text(encoder, texts, client):
    text = "the storm and soup " * 30_000
    with pytest.raises(DeadlineExceeded):
        classify(client(encoder(texts.folder)), text, deadline=0.15)


def test_more_than_the_queue_holds_is_refused_and_counted(encoder, texts, clear):
    backend = encoder(texts.folder, max_concurrency=1, max_queue=0)
    request = {"task": "classify", "output_schema": json.dumps(ABOUT)}
    first = backend.stream(clear(fenced("the storm"), **request))
    next(first)
    assert (backend.state().active, backend.state().load) == (1, 1.0)
    with pytest.raises(BackendOverloaded):
        next(backend.stream(clear(fenced("the storm"), **request)))
    first.close()
    assert backend.state().active == 0


def test_it_checks_requests_itself_too(encoder, texts, clear):
    backend = encoder(texts.folder)
    with pytest.raises(RequestRejected, match="serves the task classify alone"):
        next(backend.stream(clear("hello")))
    backend.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        next(backend.stream(clear(fenced("a"), task="classify", output_schema=json.dumps(ABOUT))))


def test_it_serves_many_threads_at_once(encoder, texts, client):
    llm, found = client(encoder(texts.folder)), []

    def work() -> None:
        found.append([classify(llm, f"the {word}").parsed["label"] for word in ("storm", "soup") * 5])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["weather", "food"] * 5] * 4


def test_a_folder_that_is_wrong_is_an_error_at_the_start(texts, entities, tmp_path):
    def copied(name: str, source: Path = texts.folder, **config) -> Path:
        folder = Path(shutil.copytree(source, tmp_path / name))
        (folder / "manifest.json").unlink()
        return changed(folder, **config)

    def failing(match: str, folder: Path, **options) -> None:
        with pytest.raises(ConfigError, match=match):
            EncoderConfig(model=folder, load="eager", **options).open()

    failing("it lacks", tmp_path)
    failing("'BertForMaskedLM'.*ForSequenceClassification", copied("a", architectures=["BertForMaskedLM"]))
    failing("'missing'", copied("b", architectures=None))
    failing("several labels", copied("c", problem_type="multi_label_classification"))
    failing("no label 'Fod'; it knows Weather, Food", texts.folder, labels={"Fod": "x"})
    failing("two labels .* same name", texts.folder, labels={"Food": "x", "Weather": "X"})
    failing("one label for each token", copied("d", entities.folder, architectures=["BertForSequenceClassification"]))
    failing("has 2 labels, and id2label", copied("e", id2label={"0": "a", "1": "b", "2": "c"}))
    broken = Path(shutil.copytree(texts.folder, tmp_path / "f"))
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes() + b"x")
    failing("incomplete or modified", broken)


def test_a_model_that_cannot_be_loaded_leaves_the_others_to_answer(encoder, texts, client, tmp_path):
    folder = Path(shutil.copytree(texts.folder, tmp_path / "model"))
    (folder / "model.onnx").write_bytes(b"none")
    llm = client(encoder(folder))
    assert classify(llm).backend == "cloud"
    assert "incomplete or modified" in classify(llm).decision.excluded["encoder"]


def test_a_client_of_an_encoder_alone_says_what_it_serves(encoder, texts):
    backend = encoder(texts.folder)
    policy = parse_policy("version: 1\nname: p\n", backends={"encoder": Location.EDGE})
    with (
        HybridLLM([backend], policy, sensors=FixedSensors()) as llm,
        pytest.raises(NoEligibleBackend, match="it serves the task classify alone"),
    ):
        llm.generate("hello")


def test_a_file_configures_it(texts, tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text(
        "version: 1\nbackends:\n"
        f"  about: {{kind: encoder, model: {texts.folder}, labels: {{Food: kitchen, Weather: outside}}}}\n"
        "  edge: {kind: onnx, model: embedded}\n"
    )
    with HybridLLM.from_config(path) as llm:
        reply = classify(llm, "the soup", labels=("kitchen", "outside"))
        assert (reply.backend, reply.parsed) == ("about", {"label": "kitchen"})
        assert llm.generate("Is this review positive? 'Dull.'", max_tokens=2).backend == "edge"


def test_a_file_that_names_no_model_reports_how_to_get_one(tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text("version: 1\nbackends: {about: {kind: encoder, model: hotels}}\n")
    with pytest.raises(ConfigError, match=r"(?s)`hotels` is not the name of a model.*models pull NAME") as found:
        HybridLLM.from_config(path)
    assert "nothing is declared" not in str(found.value)


def test_tasks_use_it_with_its_own_probabilities(encoder, texts, entities, client):
    llm = client(encoder(texts.folder), encoder(entities.folder, name="ner", labels={"PER": "person"}))
    found = tasks.classify("the storm went", ["food", "weather"], llm=llm)
    assert (found.label, found.backend) == ("weather", "encoder")
    assert found.score > 0.9
    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert tasks.classify("the storm went", ["food", "weather"], scores=False, llm=llm).backend == "encoder"
    found = tasks.extract("mr kalo mira went", ["person"], llm=llm)
    assert (found.value, found.backend) == ({"person": ["kalo mira"]}, "ner")


def test_its_log_probabilities_are_those_of_transformers(encoder, texts, client):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(texts.source).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(texts.source / "tokenizer.json"))
    llm = client(encoder(texts.folder))
    for text in ("the storm went", "a tea and rain", "now now", "soup in snow saw bread"):
        rows = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            wanted = model(input_ids=rows["input_ids"]).logits.softmax(-1)[0].tolist()
        found = tasks.classify(text, ["weather", "food"], llm=llm).scores
        assert [found["weather"], found["food"]] == pytest.approx(wanted, abs=0.03)
