"""Runs the step `prepare-data`: three passes over the data, each a stream, with what lies between them on the disk.

1. Read, clean, and note a digest and a signature of each record.
2. In the order of digests keyed by the seed, which is the order of the result: drop duplicates, then records that
   overlap with the evaluation set, then private values.
3. Split, and write or pack.

Records that went through the guard are sorted once more, by what is left of them: neither their order nor their split
follows from a private value, so nobody can check a guess of one by them.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import bytes_of
from hybrid_llm.prepare.data.cleaning import Cleaning
from hybrid_llm.prepare.data.contamination import Evaluated
from hybrid_llm.prepare.data.duplicates import Signatures, digest_of_texts
from hybrid_llm.prepare.data.faults import Faults
from hybrid_llm.prepare.data.folder import DATA_NAME, DataCard, DataFormat
from hybrid_llm.prepare.data.intake import Intake
from hybrid_llm.prepare.data.packing import ModelTokenizer
from hybrid_llm.prepare.data.privacy import Private, RecordGuard, detectors_for
from hybrid_llm.prepare.data.reading import Reading
from hybrid_llm.prepare.data.records import Columns, Record
from hybrid_llm.prepare.data.sieve import CONTENT_DIGITS, Sieve
from hybrid_llm.prepare.data.sources import Source, find_sources
from hybrid_llm.prepare.data.splitting import check_shares, keyed
from hybrid_llm.prepare.data.spool import Entry, Spool
from hybrid_llm.prepare.data.writing import Kept, Writer
from hybrid_llm.prepare.recipe.digests import digest_path
from hybrid_llm.prepare.step import Input, Outcome, Work

if TYPE_CHECKING:
    from hybrid_llm.prepare.data.step import PrepareData

_PACKABLE: Final = (DataFormat.TEXT, DataFormat.CHAT)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRAIN: Final = "train.jsonl"
_OVERHEAD: Final = 1.2
"""A line of the spool beside the text that it holds."""


class Preparation:
    """One run of the step."""

    def __init__(self, step: PrepareData, work: Work) -> None:
        self._step, self._work = step, work
        self._intake = self._open_intake(Faults(step.on_error == "skip", step.max_errors), step.format)
        self._intake.labels = frozenset(step.labels)
        self._intake.label_by_file = dict(step.label_by_file)
        self._intake.progress = lambda share: work.progress("reading", share * 0.5)

    def run(self) -> Outcome:
        """Prepare the data.

        Raises:
            ConfigError: the sources or options are unusable, nothing is left, or the disk is full.
        """
        scratch = self._work.scratch / "spool"
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        try:
            scratch.mkdir(parents=True, mode=0o700)
            return self._run(scratch)
        except OSError as error:
            where = error.filename or self._work.out
            if error.errno in _FULL:
                message = f"the data cannot be written to {where} ({error.strerror}): make room, or choose another disk"
            else:
                message = f"{where} cannot be read or written ({error.strerror}): correct its path or its permissions"
            raise ConfigError(message, path=str(where)) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _run(self, scratch: Path) -> Outcome:
        step = self._step
        self._check()
        tokenizer = None if step.tokenizer is None else ModelTokenizer(self._work.path(step.tokenizer))
        guard = self._open_guard()
        evaluated = self._open_evaluation()
        sources = [source for given in step.sources for source in self._sources(given)]
        with Spool(scratch / "records", int(sum(source.size for source in sources) * _OVERHEAD)) as spool:
            similar = self._take_in(sources, spool, scratch)
            kind = self._format()
            sieve = Sieve(
                format=kind, exact=step.duplicates != "keep", similar=similar, evaluated=evaluated,
                drop_overlaps=step.contaminated == "drop", guard=guard,
            )  # fmt: skip
            kept = Kept(
                path=scratch / "kept", seed=self._work.seed, shares=step.splits,
                stratify=step.stratify, balance=step.balance,
            )  # fmt: skip
            records = self._sieved(sieve, spool)
            kept.write(records if guard is None else self._sorted_again(records, sieve, scratch))
        writer = Writer(
            out=self._work.out, splits=tuple(step.splits), tokenizer=tokenizer, block_tokens=step.block_tokens
        )
        writer.write((split, Record.unpacked(kind, line)) for split, line in kept.lines())
        return self._finish(sieve, kept, writer)

    def _check(self) -> None:
        step = self._step
        check_shares(step.splits)
        if (step.tokenizer is None) is not (step.block_tokens == 0):
            raise ConfigError("packing needs both `tokenizer` and `block_tokens`: set both, or none")
        if step.stratify and step.group:
            raise ConfigError("`stratify` divides each label exactly, `group` keeps records together: choose one")
        if step.min_chars > step.max_chars:
            raise ConfigError("`min_chars` is above `max_chars`: no text has such a length")

    def _open_intake(self, faults: Faults, kind: DataFormat | None) -> Intake:
        step = self._step
        columns = Columns(
            text=step.text, label=step.label, messages=step.messages, prompt=step.prompt, chosen=step.chosen,
            rejected=step.rejected, tokens=step.tokens, tags=step.tags, group=step.group,
        )  # fmt: skip
        reading = Reading(
            kind=step.read_as or "", unit=step.unit, encoding=step.encoding, max_line=step.max_line_mb << 20
        )
        cleaning = Cleaning(
            mend=step.mend, min_chars=step.min_chars, max_chars=step.max_chars, languages=step.languages
        )
        return Intake(reading=reading, columns=columns, cleaning=cleaning, faults=faults, format=kind)

    def _sources(self, given: Input) -> list[Source]:
        return find_sources(self._work.path(given), self._step.files)

    def _open_guard(self) -> RecordGuard | None:
        step = self._step
        if step.private == Private.KEEP:
            return None
        names, own = detectors_for(step.detectors, step.policy, step.config)
        return RecordGuard(Private(step.private), names, own, self._work.seed)

    def _open_evaluation(self) -> Evaluated | None:
        step = self._step
        if step.evaluation is None:
            return None
        path = self._work.path(step.evaluation)
        columns = Columns(text=step.text, label=step.label, messages=step.messages, tokens=step.tokens, tags=step.tags)
        intake = Intake(
            reading=replace(self._intake.reading, kind=""),
            columns=columns,
            cleaning=Cleaning(mend=step.mend),
            faults=Faults(False, 0),
        )
        found = find_sources(path)
        records = intake.records([source for source in found if source.path.name != _TRAIN] or found)
        evaluated = Evaluated(([" ".join(record.texts)] for record in records), step.overlap_words)
        if evaluated.count == 0:
            raise ConfigError(f"`evaluation`: {path} has no record", path=str(path))
        return evaluated

    def _take_in(self, sources: list[Source], spool: Spool, scratch: Path) -> Any:
        """Fill the spool; returns which records are similar to others, or None."""
        step = self._step
        signatures = Signatures(scratch / "signatures", step.similarity_words) if step.duplicates == "near" else None
        for number, record in enumerate(self._intake.records(sources)):
            entry = _entry(record, number, self._work.seed)
            spool.add(entry)
            if signatures is not None:
                signatures.add(bytes.fromhex(entry.key), record.texts)
        self._work.progress("comparing", 0.5)
        return None if signatures is None else signatures.duplicates(step.similarity)

    def _format(self) -> DataFormat:
        kind = self._intake.format
        if kind is None:
            raise ConfigError(f"no record could be read: {self._intake.faults.to_json()['reasons']}")
        if self._step.tokenizer is not None and kind not in _PACKABLE:
            raise ConfigError(f"records of the format `{kind}` cannot be packed: remove `tokenizer` and `block_tokens`")
        if kind is not DataFormat.LABELLED and (self._step.stratify or self._step.balance):
            raise ConfigError("`stratify` and `balance` need one label for each record: remove them, or name `label`")
        return kind

    def _sieved(self, sieve: Sieve, spool: Spool) -> Iterator[tuple[str, Record]]:
        count = max(1, self._intake.cleaned.left)
        progress = self._work.progress
        for entry, record in sieve.records(
            spool.sorted(), lambda done: progress("guarding", 0.5 + 0.4 * done / count) if done % 1000 == 0 else None
        ):
            yield entry.key[:CONTENT_DIGITS], record

    def _sorted_again(
        self, records: Iterator[tuple[str, Record]], sieve: Sieve, scratch: Path
    ) -> Iterator[tuple[str, Record]]:
        """Records in the order of what the guard left of them; those that are equal now are dropped."""
        size = self._intake.read.more.get("size", {}).get("bytes", 0)
        with Spool(scratch / "guarded", int(size * _OVERHEAD)) as spool:
            for number, (_, record) in enumerate(records):
                spool.add(_entry(record, number, self._work.seed))
            last = ""
            for entry in spool.sorted():
                content = entry.key[:CONTENT_DIGITS]
                if content == last and sieve.exact:
                    sieve.private.drop("equal_without_values")
                    continue
                last = content
                yield content, Record.unpacked(sieve.format, entry.line)

    def _finish(self, sieve: Sieve, kept: Kept, writer: Writer) -> Outcome:
        figures = self._figures(sieve, kept, writer)
        self._check_splits(writer, figures)
        step, tokenizer = self._step, writer.tokenizer
        size = bytes_of(self._work.out)
        card = DataCard(
            format=DataFormat.BLOCKS if tokenizer is not None else sieve.format,
            splits={name: writer.written[name] for name in step.splits},
            labels=step.labels or tuple(sorted(self._intake.seen_labels)),
            licence=step.licence,
            sources={given.text: digest_path(self._work.path(given)) for given in step.sources},
            figures=figures,
            tokenizer="" if tokenizer is None else tokenizer.digest,
        )
        (self._work.out / DATA_NAME).write_text(card.to_json(), encoding="utf-8")
        metrics = {"records_in": float(self._intake.read.entered), "records_out": float(kept.figures.left)}
        metrics["size_mb"] = size / 1e6
        if tokenizer is not None:
            metrics["tokens"] = float(sum(writer.packed.more["tokens"].values()))
        about = {"licence": step.licence, "splits": dict(card.splits), "sources": dict(card.sources)}
        return Outcome(metrics=metrics, card={"data": {**about, "figures": figures}})

    def _figures(self, sieve: Sieve, kept: Kept, writer: Writer) -> dict[str, Any]:
        figures: dict[str, Any] = {
            "read": {**self._intake.read.to_json(), "broken": self._intake.faults.to_json()},
            "clean": self._intake.cleaned.to_json(),
            "duplicates": {**sieve.duplicates.to_json(), "method": self._method()},
        }
        if sieve.evaluated is not None:
            items = {"items": sieve.evaluated.count, "items_met": sieve.evaluated.met}
            figures["evaluation"] = {**sieve.overlaps.to_json(), **items, "words": self._step.overlap_words}
        if sieve.guard is not None:
            figures["private"] = {**sieve.private.to_json(), "action": self._step.private}
        figures["split"] = {**kept.figures.to_json(), "seed": self._work.seed, "records": dict(writer.written)}
        if writer.labels and sieve.format is DataFormat.LABELLED:
            figures["split"]["labels"] = dict(sorted(writer.labels.items()))
        if writer.tokenizer is not None:
            figures["pack"] = {**writer.packed.to_json(), "block_tokens": self._step.block_tokens}
        return figures

    def _method(self) -> str:
        step = self._step
        if step.duplicates != "near":
            return step.duplicates
        return f"MinHash, {step.similarity_words} words, similarity {step.similarity:g}"

    def _check_splits(self, writer: Writer, figures: dict[str, Any]) -> None:
        empty = [name for name in self._step.splits if not writer.written[name]]
        if not empty:
            return
        dropped = {name: part["dropped"] for name, part in figures.items() if part["dropped"]}
        raise ConfigError(
            f"the split `{empty[0]}` is empty: {figures['split']['in']} records are left of {figures['read']['in']} "
            f"(dropped: {dropped or 'none'}): take more data, fewer splits, or a larger share for it"
        )


def _entry(record: Record, number: int, seed: int) -> Entry:
    """The record with its place: by its content, of equal ones by its line, of equal lines by its number."""
    line = record.packed()
    content = keyed(digest_of_texts(record.texts), seed, b"order", CONTENT_DIGITS // 2)
    return Entry((content + hashlib.blake2b(line.encode(), digest_size=8).digest()).hex(), line, number)
