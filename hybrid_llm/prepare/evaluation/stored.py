"""Answers that a run has already got, in its scratch folder, so that an interrupted evaluation goes on."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from hybrid_llm.core.jsontext import parse_json
from hybrid_llm.prepare.evaluation.answers import Answer, Item


class StoredAnswers:
    """The answers of one subject to one task. Each is written as soon as it is there; a cut line is ignored."""

    def __init__(self, folder: Path, *identity: str) -> None:
        """*identity* is all that the answers depend on beside the item."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f"{sha256(json.dumps(identity).encode()).hexdigest()[:24]}.jsonl"
        self._known = dict(self._read())

    def get(self, item: Item) -> Answer | None:
        """The answer to *item*, if it is there."""
        return self._known.get(item.digest)

    def put(self, item: Item, answer: Answer) -> None:
        """Keep an answer; OSError if the disk is full."""
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([item.digest, answer.to_dict()]) + "\n")

    def _read(self) -> list[tuple[str, Answer]]:
        if not self._path.is_file():
            return []
        found = []
        whole = self._path.read_text(encoding="utf-8", errors="replace")
        for line in whole.splitlines():
            try:
                digest, plain = parse_json(line)
                found.append((digest, Answer.from_dict(plain)))
            except (ValueError, TypeError):
                continue
        if whole and not whole.endswith("\n"):  # a kill cut the last line: the next one begins anew
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write("\n")
        return found
