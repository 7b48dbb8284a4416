"""What people do with a text, each one call: summarise, translate, classify, extract, answer.

    from hybrid_llm import tasks
    print(tasks.classify("Dull and far too long.", ["positive", "negative"]).label)

Each has an async twin, such as `aclassify`, and `batch` and `abatch` do one for many texts. All use the client of
`hybrid_llm.generate`, or the one passed as `llm`. The text is data: what it says is no instruction, and grammars hold
the answers of `classify`, `extract` and `answer`. See docs/tasks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from hybrid_llm.core.request import GenerateOptions, OutputSchema
from hybrid_llm.core.tracebacks import scrubbed
from hybrid_llm.router.tasks import work
from hybrid_llm.router.tasks.batches import Outcome, abatch, batch
from hybrid_llm.router.tasks.calibration import Calibration, Scaling, check_examples, fitted, read_examples
from hybrid_llm.router.tasks.checks import (
    checked_count,
    checked_labels,
    checked_name,
    checked_share,
    checked_text,
    extraction_schema,
    property_names,
)
from hybrid_llm.router.tasks.classifying import Classify
from hybrid_llm.router.tasks.results import Classification, Extraction, Reply, Summary, TaskResult, Translation
from hybrid_llm.router.tasks.session import arun, run

if TYPE_CHECKING:
    from hybrid_llm.router.client import HybridLLM

__all__ = [
    "Calibration",
    "Classification",
    "Extraction",
    "Outcome",
    "Reply",
    "Scaling",
    "Summary",
    "TaskResult",
    "Translation",
    "aanswer",
    "abatch",
    "acalibrate",
    "aclassify",
    "aextract",
    "answer",
    "asummarise",
    "atranslate",
    "batch",
    "calibrate",
    "classify",
    "extract",
    "read_examples",
    "summarise",
    "translate",
]

_MOST_SENTENCES = 50


@scrubbed
def summarise(
    text: str, *, sentences: int = 3, llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Summary:
    """Summarise *text* in at most so many *sentences*.

    A text that no backend's context window holds is summarised piece by piece, and then the summaries.

    Args:
        text: The text.
        sentences: From 1 to 50.
        llm: The client; by default that of `hybrid_llm.generate`.
        options: As for `generate`, without those that the task sets itself: `task`, `output_schema`, `tools`,
            `logprobs`. The deadline holds for all answers together.

    Raises:
        InvalidRequest: the text is empty, or an option is out of range. Else the errors of `generate`.
    """
    return run(_summarise(text, sentences), llm, options)


@scrubbed
async def asummarise(
    text: str, *, sentences: int = 3, llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Summary:
    """Do as `summarise` does, without blocking the event loop."""
    return await arun(_summarise(text, sentences), llm, options)


def _summarise(text: str, sentences: int) -> work.Summarise:
    return work.Summarise(text=checked_text(text), sentences=checked_count(sentences, "sentences", _MOST_SENTENCES))


@scrubbed
def translate(
    text: str, to: str, *, source: str = "", llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Translation:
    """Translate *text*; a long one piece by piece.

    Args:
        text: The text.
        to: The language, in words, such as `French`.
        source: The language of the text, where it should not be left to the model.
        llm: The client; by default that of `hybrid_llm.generate`.
        options: As for `summarise`.

    Raises as `summarise` does.
    """
    return run(_translate(text, to, source), llm, options)


@scrubbed
async def atranslate(
    text: str, to: str, *, source: str = "", llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Translation:
    """Do as `translate` does, without blocking the event loop."""
    return await arun(_translate(text, to, source), llm, options)


def _translate(text: str, to: str, source: str) -> work.Translate:
    origin = checked_name(source, "source") if source else ""
    return work.Translate(text=checked_text(text), language=checked_name(to, "to"), source=origin)


@scrubbed
def classify(
    text: str,
    labels: Sequence[str],
    *,
    threshold: float | None = None,
    scores: bool = True,
    exact: bool = False,
    calibration: Calibration | None = None,
    llm: HybridLLM | None = None,
    **options: Unpack[GenerateOptions],
) -> Classification:
    """Give *text* one of *labels*, with a probability for each.

    An encoder that knows the labels answers where one is configured, else a generator, whose scores come from the
    log-probabilities of its tokens. The score of a label that is not among the 20 likeliest tokens is a bound from
    above; so the winner's is never too high because of it.

    Args:
        text: The text; of a long one, the mean over its pieces counts.
        labels: 2 to 100, in words that say what they mean.
        threshold: The least score to be content with, above 0 and at most 1: below, the next backend that the policy
            allows is asked, without those that have answered, until one is content or none is left.
        scores: False asks for a label alone, also from backends that give no log-probabilities.
        exact: Ask once more for each label of which only a bound is known, of the same backend.
        calibration: From `calibrate`, for the same labels: makes scores honest.
        llm: The client; by default that of `hybrid_llm.generate`.
        options: As for `summarise`.

    Raises:
        InvalidRequest: the text is empty, the labels are too few, too many, not distinct or no single lines, or an
            option is out of range. Else the errors of `generate`.
    """
    return run(_classify(text, labels, threshold, scores, exact, calibration), llm, options)


@scrubbed
async def aclassify(
    text: str,
    labels: Sequence[str],
    *,
    threshold: float | None = None,
    scores: bool = True,
    exact: bool = False,
    calibration: Calibration | None = None,
    llm: HybridLLM | None = None,
    **options: Unpack[GenerateOptions],
) -> Classification:
    """Do as `classify` does, without blocking the event loop."""
    return await arun(_classify(text, labels, threshold, scores, exact, calibration), llm, options)


def _classify(
    text: str,
    labels: Sequence[str],
    threshold: float | None,
    scores: bool,  # noqa: FBT001 - passed on by position
    exact: bool,  # noqa: FBT001
    calibration: Calibration | None,
) -> Classify:
    return Classify(
        text=checked_text(text),
        labels=checked_labels(labels),
        threshold=None if threshold is None else checked_share(threshold, "threshold"),
        scores=scores or threshold is not None or calibration is not None,
        exact=exact,
        calibration=calibration,
    )


@scrubbed
def extract(
    text: str, schema: OutputSchema | Sequence[str], *, llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Extraction:
    """Extract from *text* what *schema* asks for.

    An encoder answers where one is configured that knows every kind, and the schema asks for texts alone; else a
    generator, whose answer a grammar holds to the schema. What the pieces of a long text have is put together: lists
    are joined, each value once, and of other values the first counts.

    Args:
        text: The text.
        schema: Kinds, such as `["person", "place"]`, of each of which a list is made, of what the text says word for
            word; a JSON Schema of an object; or a pydantic model.
        llm: The client; by default that of `hybrid_llm.generate`.
        options: As for `summarise`.

    Raises:
        InvalidRequest: the text is empty, or the schema is none of an object, or cannot be enforced.
        OutputInvalid: `max_tokens` cut the answer off. Else the errors of `generate`.
    """
    return run(_extract(text, schema), llm, options)


@scrubbed
async def aextract(
    text: str, schema: OutputSchema | Sequence[str], *, llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Extraction:
    """Do as `extract` does, without blocking the event loop."""
    return await arun(_extract(text, schema), llm, options)


def _extract(text: str, schema: OutputSchema | Sequence[str]) -> work.Extract:
    asked = extraction_schema(schema)
    verbatim = asked is not schema
    return work.Extract(text=checked_text(text), schema=asked, names=property_names(asked), verbatim=verbatim)


@scrubbed
def answer(text: str, question: str, *, llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]) -> Reply:
    """Answer *question* from *text* alone; None where the model finds no answer in it.

    Every piece of a long text is asked, then the answers of the pieces.

    Args:
        text: The text.
        question: The question.
        llm: The client; by default that of `hybrid_llm.generate`.
        options: As for `summarise`.

    Raises as `extract` does.
    """
    return run(_answer(text, question), llm, options)


@scrubbed
async def aanswer(
    text: str, question: str, *, llm: HybridLLM | None = None, **options: Unpack[GenerateOptions]
) -> Reply:
    """Do as `answer` does, without blocking the event loop."""
    return await arun(_answer(text, question), llm, options)


def _answer(text: str, question: str) -> work.Answer:
    return work.Answer(text=checked_text(text), question=checked_text(question, "question"))


@scrubbed
def calibrate(
    examples: Sequence[tuple[str, str]],
    labels: Sequence[str],
    *,
    bias: bool = True,
    exact: bool = True,
    concurrency: int = 2,
    progress: bool = False,
    llm: HybridLLM | None = None,
    **options: Unpack[GenerateOptions],
) -> Calibration:
    """Fit the scores of `classify` to labelled texts, for each backend that answers at least 20 of them.

    Args:
        examples: Pairs of a text and its label, such as `read_examples` returns.
        labels: All labels.
        bias: False fits a temperature alone, which changes no label; else also a constant for each label.
        exact: As for `classify`; use the same there.
        concurrency: Texts at once.
        progress: Show a bar.
        llm: The client; by default that of `hybrid_llm.generate`.
        options: As for `classify`.

    Returns:
        What to pass to `classify` as `calibration`, with accuracy and calibration error before and after, measured on
        texts that were left out of the fit.

    Raises:
        InvalidRequest: there are too few examples, or one has another label. Else the errors of `classify`.
    """
    check_examples(examples, checked_labels(labels))
    found = batch(
        lambda example: classify(example[0], labels, exact=exact, llm=llm, **options),
        examples,
        concurrency=concurrency,
        progress=progress,
    )
    return _fitted(examples, found, bias=bias)


@scrubbed
async def acalibrate(
    examples: Sequence[tuple[str, str]],
    labels: Sequence[str],
    *,
    bias: bool = True,
    exact: bool = True,
    concurrency: int = 2,
    progress: bool = False,
    llm: HybridLLM | None = None,
    **options: Unpack[GenerateOptions],
) -> Calibration:
    """Do as `calibrate` does, without blocking the event loop."""
    check_examples(examples, checked_labels(labels))
    found = await abatch(
        lambda example: aclassify(example[0], labels, exact=exact, llm=llm, **options),
        examples,
        concurrency=concurrency,
        progress=progress,
    )
    return _fitted(examples, found, bias=bias)


def _fitted(
    examples: Sequence[tuple[str, str]], found: Sequence[Outcome[Classification]], *, bias: bool
) -> Calibration:
    results = [outcome.unwrap() for outcome in found]
    answered = zip(results, examples, strict=True)
    return fitted([(each.backend, each.scores, label) for each, (_, label) in answered], bias=bias)
