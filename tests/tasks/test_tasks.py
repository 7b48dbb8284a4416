"""What each task asks, returns and refuses; the backends are scripted, the router is real."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass, replace

import pytest

from hybrid_llm import tasks
from hybrid_llm.core.errors import BackendUnavailable, InvalidRequest, NoEligibleBackend, OutputInvalid
from hybrid_llm.core.request import Location, Request
from hybrid_llm.core.taskform import text_of
from hybrid_llm.router.tasks.pieces import cut
from tests.tasks.conftest import POLICY, Writer
from tests.tasks.tokens import answer_tokens

LABELS = ["good", "bad"]


def edge(write, **options) -> Writer:
    return Writer("edge", Location.EDGE, write, **options)


def cloud(write, **options) -> Writer:
    return Writer("cloud", Location.CLOUD, write, **options)


def says(chosen: str, **shares: float):
    """Writes *chosen* as the label, with the probabilities of all."""
    return lambda request: answer_tokens(chosen, shares, {})


def test_a_summary_a_translation_and_an_answer_are_texts(make):
    backend = edge(lambda request: " short " if request.task != "answer" else '{"answer": "Anna"}')
    llm = make(backend)
    summary = tasks.summarise("A long text.", sentences=1, llm=llm)
    assert (summary.text, summary.backend, summary.is_complete) == ("short", "edge", True)
    assert tasks.translate("Un texte.", "English", source="French", llm=llm).text == "short"
    assert tasks.answer("Anna came.", "Who came?", llm=llm).text == "Anna"
    assert [request.task for request in backend.requests] == ["summarise", "translate", "answer"]
    assert [text_of(request) for request in backend.requests] == ["A long text.", "Un texte.", "Anna came."]
    assert "short" not in repr(summary)


def test_a_model_that_writes_the_closing_mark_too_is_stopped_there(make):
    backend = edge(lambda _: "Bonjour")
    tasks.translate("Good </text> morning", "French", llm=make(backend))
    tasks.summarise("Good morning.", llm=make(backend))
    assert [request.sampling.stop for request in backend.requests] == [("</text-2>",), ("</text>",)]


def test_an_answer_that_is_not_there_is_none(make):
    assert tasks.answer("Anna came.", "When?", llm=make(edge(lambda _: '{"answer": null}'))).text is None


def test_a_label_comes_with_a_probability_for_each(make):
    found = tasks.classify("Fine.", LABELS, llm=make(edge(says("good", good=0.9, bad=0.1))))
    assert (found.label, found.is_confident, found.previous) == ("good", True, ())
    assert found.scores == pytest.approx({"good": 0.9, "bad": 0.1})
    assert found.score == pytest.approx(0.9)


def test_labels_alone_need_no_log_probabilities(make):
    backend = edge(lambda request: '{"label": "bad"}')
    found = tasks.classify("Dull.", LABELS, scores=False, llm=make(backend))
    assert (found.label, found.score, found.scores) == ("bad", None, {})
    assert backend.requests[0].logprobs is None
    with pytest.raises(OutputInvalid, match="no log-probabilities"):
        tasks.classify("Dull.", LABELS, llm=make(backend))


def test_below_the_threshold_the_next_backend_is_asked_without_the_first(make):
    first, second = edge(says("good", good=0.6, bad=0.4)), cloud(says("bad", good=0.05, bad=0.95))
    llm = make(first, second)
    found = tasks.classify("Hm.", LABELS, threshold=0.8, llm=llm)
    assert (found.label, found.backend, found.is_confident) == ("bad", "cloud", True)
    assert found.generation.decision.excluded["edge"] == "its answer was below the threshold"
    (earlier,) = found.previous
    assert (earlier.label, earlier.backend, earlier.is_confident) == ("good", "edge", False)
    assert earlier.generation.decision.order == ("edge", "cloud")
    assert tasks.classify("Hm.", LABELS, threshold=0.5, llm=llm).backend == "edge"


def test_a_tag_keeps_an_unsure_text_on_the_device(make):
    second = cloud(says("bad", good=0.05, bad=0.95))
    llm = make(edge(says("good", good=0.6, bad=0.4)), second)
    found = tasks.classify("Hm.", LABELS, threshold=0.8, privacy={"phi"}, llm=llm)
    assert (found.label, found.is_confident, found.previous) == ("good", False, ())
    assert not second.requests


def test_an_unsure_answer_is_better_than_a_failure_of_the_next_backend(make):
    failing = cloud(lambda _: BackendUnavailable("gone", backend="cloud"))
    llm = make(edge(says("good", good=0.6, bad=0.4)), failing)
    found = tasks.classify("Hm.", LABELS, threshold=0.8, llm=llm)
    assert (found.label, found.is_confident, len(failing.requests)) == ("good", False, 1)


def test_labels_beyond_the_alternatives_are_asked_for_one_by_one(make):
    shares = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}

    def write(request: Request):
        labels = json.loads(request.output_schema)["properties"]["label"]["enum"]
        return answer_tokens(labels[0], shares, {}, most=2)

    backend = edge(write)
    found = tasks.classify("Hm.", list(shares), exact=True, llm=make(backend))
    assert found.scores == pytest.approx(shares)
    assert len(found.generations) == len(backend.requests) == 3
    assert max(tasks.classify("Hm.", list(shares), llm=make(backend)).scores.values()) < 0.5


def test_what_the_text_does_not_say_is_no_find(make):
    llm = make(edge(lambda _: '{"person": ["anna  keller", "Bob", "Keller"], "place": ["Porto"]}'))
    found = tasks.extract("Here is Anna\nKeller.", ["person", "place"], llm=llm).value
    assert found == {"person": ["anna  keller", "Keller"], "place": []}


def test_extraction_takes_kinds_a_schema_or_a_model(make):
    backend = edge(lambda _: '{"person": ["Anna"]}')
    llm = make(backend)
    assert tasks.extract("Anna came.", ["person"], llm=llm).value == {"person": ["Anna"]}
    schema = {"type": "object", "properties": {"person": {"type": "array", "items": {"type": "string"}}}}
    assert tasks.extract("Anna came.", schema, llm=llm).value == {"person": ["Anna"]}

    @dataclass
    class People:
        person: list[str]

        @classmethod
        def model_json_schema(cls):
            return schema

        @classmethod
        def model_validate_json(cls, text):
            return cls(**json.loads(text))

    assert tasks.extract("Anna came.", People, llm=llm).value == People(["Anna"])
    assert "person" in backend.requests[0].messages[0].content


LONG = "".join(f"Paragraph {i} says that the river rose by {i} metres. It rained.\n\n" for i in range(200))


def test_a_long_text_is_summarised_in_pieces_and_then_the_summaries(make):
    backend = edge(lambda request: f"S{text_of(request).count('river')}.")
    found = tasks.summarise(LONG, llm=make(backend))
    texts = [text_of(request) for request in backend.requests]
    assert "".join(texts[:-1]) == LONG
    assert all(text.endswith("\n\n") for text in texts[:-1])
    assert found.text == "S0."
    assert len(found.generations) == len(texts) > 3


def test_pieces_of_a_long_text_have_the_tags_of_the_whole(make):
    """One piece names a medical record: the others do not leave the device either."""
    small, far = edge(lambda _: "short"), cloud(lambda _: "short", window=1500)
    llm = make(small, far)
    tasks.summarise(LONG + "MRN: 12345678\n", llm=llm)
    assert len(small.requests) > 3
    assert not far.requests
    assert all("phi" in request.privacy for request in small.requests)


def test_what_pieces_have_is_put_together(make):
    def write(request: Request) -> str:
        numbers = [int(word) for word in text_of(request).split() if word.isdigit()]
        return json.dumps({"first": None if 0 in numbers else str(numbers[0]), "all": [n // 50 for n in numbers]})

    schema = {
        "type": "object",
        "properties": {
            "first": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "all": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["first", "all"],
    }
    value = tasks.extract(LONG, schema, llm=make(edge(write))).value
    assert sorted(value["all"]) == [0, 1, 2, 3]
    assert value["first"] is not None


def test_every_piece_of_a_long_text_is_asked_and_then_the_answers(make):
    def write(request: Request) -> str:
        text = text_of(request)
        return json.dumps({"answer": "150 metres" if "150" in text else None})

    backend = edge(write)
    assert tasks.answer(LONG, "How far?", llm=make(backend)).text == "150 metres"
    assert tasks.answer(LONG, "How far?", llm=make(edge(lambda _: '{"answer": null}'))).text is None


def test_a_long_translation_keeps_the_paragraphs(make):
    llm = make(edge(lambda request: text_of(request).strip().upper()))
    assert tasks.translate(LONG, "Capitals", llm=llm).text == LONG.upper().strip()


def test_a_long_text_is_classified_by_the_mean_of_its_pieces(make):
    def write(request: Request):
        good = 0.9 if "Paragraph 199" in text_of(request) else 0.3
        return answer_tokens("good", {"good": good, "bad": 1 - good}, {})

    found = tasks.classify(LONG, LABELS, llm=make(edge(write)))
    assert found.label == "bad"
    assert math.isclose(sum(found.scores.values()), 1.0)


def test_a_failure_that_is_not_about_length_stays_what_it_is(make):
    llm = make(edge(lambda _: "short"))
    with pytest.raises(NoEligibleBackend, match="does not fit"):
        tasks.summarise("short", max_tokens=5000, llm=llm)


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
@pytest.mark.parametrize("text", [LONG, "x" * 5000, "漢字。" * 700, " \n" * 900, "\ud800 a" * 300])
def test_pieces_are_the_text_and_none_is_too_large(text, size):
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert all(len(piece.encode("utf-8", "surrogatepass")) <= max(size, 4) for piece in pieces)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "there are 0; pass 2 to 100"),
        (["a"], "there are 1"),
        ([str(i) for i in range(10_000)], "there are 10000"),
        ("good", "pass a list of texts"),
        (None, "pass a list of texts"),
        (["a", "a"], "two are the same"),
        (["a", "A"], "differ in upper and lower case alone"),
        (["a", "b\nc"], "one line"),
        (["a", ""], "1 to 100 characters"),
        (["a", " b"], "no space at its ends"),
        (["a", 3], "each is a text"),
        (["a", "b" * 101], "1 to 100 characters"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(InvalidRequest, match=message):
        tasks.classify("text", labels)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: tasks.summarise(""), "text"),
        (lambda: tasks.summarise(" \n"), "text"),
        (lambda: tasks.summarise(b"text"), "text"),
        (lambda: tasks.summarise("text", sentences=0), "sentences"),
        (lambda: tasks.translate("text", ""), "to"),
        (lambda: tasks.translate("text", "French\nIgnore this"), "to"),
        (lambda: tasks.answer("text", ""), "question"),
        (lambda: tasks.classify("text", LABELS, threshold=1.5), "threshold"),
        (lambda: tasks.extract("text", []), "schema"),
        (lambda: tasks.extract("text", 7), "schema"),
        (lambda: tasks.extract("text", {"type": "string"}), "schema"),
        (lambda: tasks.extract("text", "[1]"), "schema"),
        (lambda: tasks.extract("text", ["a\nb"]), "schema"),
        (lambda: tasks.summarise("text", task="chat"), "task"),
        (lambda: tasks.summarise("text", output_schema={"type": "object"}), "output_schema"),
    ],
)
def test_bad_input_is_named_before_anything_runs(call, field):
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert caught.value.field == field


def test_a_schema_that_is_no_schema_is_refused(make):
    with pytest.raises(InvalidRequest, match="output_schema"):
        tasks.extract("text", "no json", llm=make(edge(lambda _: "{}")))


def test_the_async_twins_do_the_same(make):
    def write(request: Request):
        if request.task == "classify":
            return answer_tokens("good", {"good": 0.9, "bad": 0.1}, {})
        return {"answer": '{"answer": "x"}', "extract": '{"person": []}'}.get(request.task, "short")

    llm = make(edge(write))

    async def ask():
        return (
            (await tasks.asummarise("text", llm=llm)).text,
            (await tasks.atranslate("text", "French", llm=llm)).text,
            (await tasks.aclassify("text", LABELS, llm=llm)).label,
            (await tasks.aextract("text", ["person"], llm=llm)).value,
            (await tasks.aanswer("text", "Who?", llm=llm)).text,
        )

    assert asyncio.run(ask()) == ("short", "short", "good", {"person": []}, "x")


def test_one_deadline_holds_for_all_pieces(make):
    from hybrid_llm.core.errors import DeadlineExceeded

    def write(request: Request) -> str:
        import time

        time.sleep(0.05)
        return "short"

    with pytest.raises(DeadlineExceeded):
        tasks.summarise(LONG, llm=make(edge(write)), deadline=0.12)


def test_a_generator_in_the_place_of_an_encoder_says_so(make):
    writer = edge(says("good", good=0.9, bad=0.1))
    encoder = edge(says("sunny", sunny=0.9, rainy=0.1))
    encoder.name = "weather"
    encoder.capabilities = replace(encoder.capabilities, tasks={"classify": frozenset({"sunny", "rainy"})})
    llm = make(writer, encoder, policy=POLICY.replace("[edge, cloud]", "[weather, edge]"))
    known, unknown = (tasks.classify("A text.", labels, llm=llm) for labels in (["sunny", "rainy"], LABELS))
    assert (known.backend, known.generation.notice) == ("weather", "")
    assert unknown.backend == "edge"
    assert unknown.generation.notice == (
        "weather, which serves the task classify, was not asked: it does not know 2 of the 2 labels"
    )
    assert llm.generate("Hello").notice == ""
