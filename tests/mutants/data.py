"""Planted faults of preparing data: duplicates and leaks between splits stay, or private values do."""

from __future__ import annotations

from tests.mutants.changes import drop_argument, never, swap
from tests.mutants.mutant import Mutant

_ROOM = "hybrid_llm.prepare.data"

MUTANTS = (
    Mutant(
        "records with one equal band are duplicates",
        f"{_ROOM}.duplicates:Signatures.duplicates",
        swap(
            "(rows['hash'][some[:, 0]] == rows['hash'][some[:, 1]]).mean(axis=1) >= threshold",
            "np.ones(len(some), dtype=bool)",
        ),
    ),
    Mutant(
        "which duplicate stays depends on the order of the input",
        f"{_ROOM}.duplicates:Signatures.duplicates",
        swap("_ranks(rows['key'])", "np.arange(count)"),
    ),
    Mutant(
        "both of two near duplicates are dropped",
        f"{_ROOM}.duplicates:Signatures.duplicates",
        swap(
            "clusters.roots() != np.arange(count)",
            "np.isin(clusters.roots(), clusters.roots()[clusters.roots() != np.arange(count)])",
        ),
    ),
    Mutant(
        "texts that differ in case are no duplicates",
        f"{_ROOM}.duplicates:digest_of_texts",
        swap("unicodedata.normalize('NFKC', text).casefold()", "unicodedata.normalize('NFKC', text)"),
    ),
    Mutant(
        "texts that differ in their Unicode form are no duplicates",
        f"{_ROOM}.duplicates:digest_of_texts",
        swap("unicodedata.normalize('NFKC', text)", "text"),
    ),
    Mutant(
        "a short text of the evaluation is not found",
        f"{_ROOM}.contamination:Evaluated._grams",
        swap("max(1 if words else 0, len(words) - self._size + 1)", "len(words) - self._size + 1"),
    ),
    Mutant("records of the evaluation stay", f"{_ROOM}.sieve:Sieve._passed", never("self.drop_overlaps")),
    Mutant(
        "an overlap over two messages is not found",
        f"{_ROOM}.sieve:Sieve._passed",
        swap("[' '.join(record.texts)]", "record.texts"),
    ),
    Mutant(
        "the split train of the evaluation set counts as evaluation",
        f"{_ROOM}.preparation:",
        swap("source.path.name != _TRAIN", "True"),
    ),
    Mutant(
        "the seed changes no split",
        f"{_ROOM}.splitting:split_of",
        swap("keyed(content, seed, b'split')", "keyed(content, 0, b'split')"),
    ),
    Mutant(
        "a person is in training and test",
        f"{_ROOM}.writing:Kept.write",
        swap(
            "hashlib.blake2b(record.group.encode()).digest() if record.group else bytes.fromhex(content)",
            "bytes.fromhex(content)",
        ),
    ),
    Mutant(
        "a record about which the guard is in doubt stays",
        f"{_ROOM}.privacy:RecordGuard._judged",
        never("seen.blocked"),
    ),
    Mutant(
        "a record with which the guard cannot deal stays",
        f"{_ROOM}.privacy:RecordGuard.applied",
        swap("return None", "return record"),
    ),
    Mutant(
        "the pseudonym of a value follows from the value",
        f"{_ROOM}.privacy:RecordGuard._judged",
        swap("self._key(_contents(seen))", "self._key(texts)"),
    ),
    Mutant(
        "a person has one pseudonym in all records",
        f"{_ROOM}.privacy:RecordGuard._judged",
        swap("self._key(_contents(seen))", "self._key(())"),
    ),
    Mutant(
        "the order of records follows from private values",
        f"{_ROOM}.preparation:Preparation._run",
        swap("records if guard is None else self._sorted_again(records, sieve, scratch)", "records"),
    ),
    Mutant(
        "others can read private values while data is prepared",
        f"{_ROOM}.preparation:Preparation.run",
        drop_argument("mkdir", "mode"),
    ),
)
