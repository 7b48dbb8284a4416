"""Cleans, deduplicates and pseudonymises a few texts, and splits them: python examples/prepare_data.py

Needs the extra `prepare`. The same options stand in a recipe as a step of the kind `prepare-data`.
"""

import json
import tempfile
from pathlib import Path

from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.data.step import PrepareData
from hybrid_llm.prepare.step import Input, Work

REVIEWS = [
    {"review": "A delight from the first minute to the last, and the music stays with you.", "stars": 5},
    {"review": "a delight from the first minute to the last,  and the music stays with you.", "stars": 5},
    {"review": "The caf\u00c3\u00a9 scene is worth the ticket; write to ann.lee@example.org for a copy.", "stars": 4},
    {"review": "Two hours that I will not get back, call +49 30 2345678 if you want my ticket.", "stars": 1},
    {"review": "Neither funny nor sad, and the ending was written by someone in a hurry.", "stars": 2},
    {"stars": 3},
]


def main() -> None:
    """Print the records of each split, and what was dropped."""
    with tempfile.TemporaryDirectory() as root:
        source, out = Path(root, "reviews.jsonl"), Path(root, "out")
        source.write_text("".join(json.dumps(review) + "\n" for review in REVIEWS), encoding="utf-8")
        out.mkdir()
        step = PrepareData(
            sources=(Input(str(source)),),
            text="review",
            label="stars",
            on_error="skip",
            private="remove",
            splits={"train": 0.75, "test": 0.25},
        )
        step.run(Work(out=out, scratch=Path(root, "scratch"), seed=1))
        data = DataFolder.open(out)
        for split in data.card.splits:
            for record in data.records(split):
                print(f"{split:5} {record['label']}  {record['text']}")
        for name in ("read", "duplicates", "private"):
            figures = data.card.figures[name]
            print(f"{name}: {figures['in']} in, {figures['out']} out, dropped {figures['dropped'] or 'none'}")


if __name__ == "__main__":
    main()
