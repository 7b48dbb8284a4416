"""What a classification costs with an encoder and with a generator, and how good and honest a 135M generator is.

    python -m benchmarks tasks            the cost, and the quality of SmolLM2-135M on three small sets (minutes)
    python -m benchmarks tasks --cost     the cost alone

The encoder has random weights in the shape of MiniLM (22 M parameters, int8), which prove speed, never quality; making
it needs the extra `prepare`. The generator is SmolLM2-135M-Instruct (real weights, Q4_1), or the embedded model with
--smoke. Calls are interleaved, each with one thread, and counted in processor time.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks._run import ROOT, announce, parser, with_json, write
from benchmarks._tasks_cases import INTENTS, TOPICS
from hybrid_llm import HybridLLM, tasks
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.encoder.spec import EncoderConfig
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.signals import FixedSensors
from tests.weights import Unreachable, smollm2_gguf

Example = tuple[str, str]
POLARITY = ROOT / "examples" / "models" / "data" / "sentence_polarity.zip"
LABELS = ("negative", "positive")


def client(*backends: object) -> HybridLLM:
    policy = builtin_policy("balanced", backends={each.name: each.location for each in backends})
    return HybridLLM(backends, policy, sensors=FixedSensors())


def random_encoder(folder: Path, *, small: bool) -> Path:
    """A classifier in the shape of MiniLM-L6, converted to int8; its tokenizer knows letters and few words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from hybrid_llm.backends.models.encoders import convert_encoder

    texts = [text for sets in (TOPICS, INTENTS) for each in sets.values() for text in each]
    words = sorted({word.lower() for text in texts for word in text.split()})
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *letters, *("##" + each for each in letters)]
    ids = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    source = folder / "hf"
    source.mkdir(parents=True)
    tokenizer.save(str(source / "tokenizer.json"))
    torch.manual_seed(0)
    width = 32 if small else 384
    config = transformers.BertConfig(
        vocab_size=len(ids) if small else 30_522,
        hidden_size=width,
        num_hidden_layers=2 if small else 6,
        num_attention_heads=2 if small else 12,
        intermediate_size=4 * width,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(source)
    convert_encoder(source, folder / "int8", "fp32" if small else "int8")
    return folder / "int8"


def polarity(count: int) -> list[Example]:
    """Sentences of film reviews (Pang and Lee, 2005), as many of each label."""
    rng, found = random.Random(1), []
    with zipfile.ZipFile(POLARITY) as archive:
        for label, end in zip(LABELS, ("neg", "pos"), strict=True):
            (name,) = (each for each in archive.namelist() if each.endswith(f"rt-polarity.{end}"))
            lines = archive.read(name).decode("latin-1").splitlines()
            found += [(line.strip(), label) for line in rng.sample(lines, count // 2)]
    rng.shuffle(found)
    return found


def labelled(sets: dict[str, list[str]]) -> list[Example]:
    """The texts of all labels, mixed."""
    found = [(text, label) for label, texts in sets.items() for text in texts]
    random.Random(2).shuffle(found)
    return found


def cost(encoder: HybridLLM, generator: HybridLLM, texts: Sequence[str]) -> dict[str, float]:
    """Processor time of one classification, ms: the median over *texts*, one after the other with each."""

    def timed(llm: HybridLLM, text: str) -> float:
        began = time.process_time()
        tasks.classify(text, LABELS, llm=llm)
        return (time.process_time() - began) * 1e3

    both = {"encoder": encoder, "generator": generator}
    for llm in both.values():
        timed(llm, "warm up")
    found: dict[str, list[float]] = {name: [] for name in both}
    for text in texts:
        for name, llm in both.items():
            found[name].append(timed(llm, text))
    medians = {name: statistics.median(each) for name, each in found.items()}
    for name, each in medians.items():
        print(f"{name:10} {each:8.1f} ms of processor time for a classification")
    print(f"{'ratio':10} {medians['generator'] / medians['encoder']:8.1f}\n")
    return medians


def quality(generator: HybridLLM, name: str, examples: Sequence[Example]) -> dict[str, object]:
    """Accuracy and calibration error, as they are and calibrated on four fifths of the examples."""
    labels = sorted({label for _, label in examples})
    plain = tasks.calibrate(examples, labels, bias=False, exact=False, concurrency=1, llm=generator).backends["edge"]
    exact = tasks.calibrate(examples, labels, concurrency=1, llm=generator).backends["edge"]
    print(f"{name}: {len(examples)} texts, {len(labels)} labels; chance is {1 / len(labels):.2f}")
    rows: list[tuple[str, float, float]] = [
        ("one answer", plain.accuracy_before, plain.ece_before),
        ("one answer, temperature", plain.accuracy_after, plain.ece_after),
        ("exact", exact.accuracy_before, exact.ece_before),
        ("exact, temperature and bias", exact.accuracy_after, exact.ece_after),
    ]
    for what, accuracy, error in rows:
        print(f"  {what:28} accuracy {accuracy:.2f}   calibration error {error:.2f}")
    return {what: {"accuracy": accuracy, "ece": error} for what, accuracy, error in rows}


def generator_folder(folder: Path, *, smoke: bool) -> Path | None:
    """The folder of SmolLM2, imported; None for the embedded model."""
    if smoke:
        return None
    from hybrid_llm.backends.models.gguf import import_gguf

    import_gguf(smollm2_gguf(), folder / "smollm2", name="smollm2-135m")
    return folder / "smollm2"


def main() -> None:
    made = with_json(parser(__doc__))
    made.add_argument("--cost", action="store_true", help="the cost alone")
    options = made.parse_args()
    announce(options)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            model = generator_folder(Path(scratch), smoke=options.smoke)
        except Unreachable as error:
            print(f"left out: {error}")
            return
        edge = EdgeBackend(EdgeConfig(model=model, threads=1))
        folder = random_encoder(Path(scratch) / "encoder", small=options.smoke)
        figures: dict[str, object] = {}
        with client(edge) as generator, client(EncoderConfig(model=folder, load="eager").open()) as encoder:
            texts = [text for text, _ in polarity(4 if options.smoke else 30)]
            figures["cost_ms"] = cost(encoder, generator, texts)
            if not options.cost:
                figures |= judged(generator, smoke=options.smoke)
        write(options.json, figures)


def judged(generator: HybridLLM, *, smoke: bool) -> dict[str, object]:
    """The quality on each set."""
    if smoke:
        return {"film reviews": quality(generator, "film reviews", polarity(20))}
    sets = {"film reviews": polarity(60), "topics": labelled(TOPICS), "intents of customers": labelled(INTENTS)}
    return {name: quality(generator, name, examples) for name, examples in sets.items()}


if __name__ == "__main__":
    main()
