"""Generate the data of the demonstration models: `python -m examples.models.recipe`; the same seed, the same bytes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from examples.models.recipe.conversations import conversations, vocabulary_texts
from examples.models.recipe.held_out import by_file
from examples.models.recipe.tasks.reviews import training_sentences

FOLDER = Path("build/demonstration")
CONVERSATIONS = {"edge": 70_000, "node": 58_000}
SAMPLES = 20_000
ITEMS = 60


def write(path: Path, records: Iterable[object]) -> None:
    """Write *records* to *path* as JSON lines; the file appears once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    partial.replace(path)


def files(share: float, items: int, seed: int) -> Iterator[tuple[str, Iterable[object]]]:
    """Each file with its records; *share* is that of the whole number of conversations."""
    texts = chain(vocabulary_texts(int(SAMPLES * share), seed), training_sentences())
    yield "texts.jsonl", ({"text": text} for text in texts)
    for size, count in CONVERSATIONS.items():
        drawn = conversations(size, int(count * share), seed)
        yield f"{size}.jsonl", ({"messages": messages} for messages in drawn)
    yield from ((f"held_out/{name}", records) for name, records in by_file(items))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.models.recipe", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where the files come to lie")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the conversations, for a trial")
    parser.add_argument("--items", type=int, default=ITEMS, help="held-out items of each task")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and write the files."""
    options = _options()
    for name, records in files(options.share, options.items, options.seed):
        write(options.folder / name, records)
        print(options.folder / name, flush=True)


if __name__ == "__main__":
    main()
