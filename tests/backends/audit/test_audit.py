"""An audit log names what was done to it, survives what happens to its process, and says what it could not write."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.heads import SignedHead
from hybrid_llm.backends.audit.keys import AuditKey, AuditPublicKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLog, AuditLogs
from hybrid_llm.backends.audit.refusals import Refusals
from hybrid_llm.backends.audit.tree import EMPTY, MerkleTree, leaf_hash
from hybrid_llm.backends.audit.verify import entries, verify
from hybrid_llm.backends.audit.writer import AuditFailed, AuditWriter
from hybrid_llm.core.errors import ConfigError
from tests.postgres import forget


def entry(number, **fields):
    return AuditEntry(event="end", at_ms=1_795_608_000_000 + number, call=f"c{number}", outcome="ok", **fields)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "audit.key"
    make_audit_key(path)
    return path


@pytest.fixture
def key(key_file):
    return AuditKey.load(key_file)


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "audit.db"
    url = request.getfixturevalue("postgres_server").url
    forget(url, "audit_records", "audit_logs")
    return url


def checked(where, key, *known, log="node"):
    with closing(AuditLogs(where)) as logs:
        return verify(logs, log, [key.public], known)


def faults(where, key, *known):
    return [(found.fault, found.first, found.last) for found in checked(where, key, *known).findings]


def mth(leaves):
    """The root as RFC 9162, 2.1.1 defines it, recursively."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\x01" + mth(leaves[:half]) + mth(leaves[half:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=40), st.integers(0, 40))
def test_the_tree_has_the_root_of_the_rfc_and_goes_on_from_its_peaks(leaves, cut):
    tree = MerkleTree()
    for number, leaf in enumerate(leaves):
        if number == cut:
            tree = MerkleTree(tree.size, tree.peaks)
        tree.append(leaf_hash(leaf))
    assert (tree.size, tree.root) == (len(leaves), mth(leaves))


def test_roots_are_those_of_known_vectors():
    """The inputs and roots of the reference implementation of RFC 6962, whose tree RFC 9162 keeps."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    tree = MerkleTree()
    assert tree.root == EMPTY
    for text in inputs:
        tree.append(leaf_hash(bytes.fromhex(text)))
        if tree.size in roots:
            assert tree.root.hex() == roots[tree.size]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts, texts, st.lists(texts, max_size=3), st.integers(0, 2**40), st.integers(0, 2**50))
def test_an_entry_is_read_as_it_was_written(identity, outcome, tags, tokens, number):
    written = entry(1, identity=identity, tags=tuple(tags), prompt_tokens=tokens)
    written = replace(written, outcome=outcome)
    assert AuditEntry.decode(written.encode("node", number)) == (written, "node", number)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_bytes_that_are_no_entry_are_a_value_error(data):
    with pytest.raises(ValueError):
        AuditEntry.decode(data)


def test_a_log_that_nobody_touched_verifies_and_goes_on_after_a_restart(where, key):
    for start in (0, 5, 6):
        log = AuditLog(where, "node", key)
        assert log.size == start
        head = log.append([entry(number) for number in range(start, max(6, start + 1) if start else 5)])
        log.close()
    found = checked(where, key, head)
    assert (found.records, found.findings, found.unfinished) == (7, (), ())
    assert found.head == head


def test_logs_in_one_database_are_apart(where, key):
    for name in ("one", "two"):
        with closing(AuditLog(where, name, key)) as log:
            log.append([entry(1), entry(2)])
    with closing(AuditLogs(where)) as logs:
        assert logs.names() == ["one", "two"]
    assert not checked(where, key, log="one").findings


def test_a_request_without_end_and_lost_records_are_reported(tmp_path, key):
    with closing(AuditLog(tmp_path / "a.db", "node", key)) as log:
        log.append([AuditEntry(event="begin", at_ms=1, call="x"), AuditEntry(event="gap", at_ms=2, lost=3), entry(3)])
    found = checked(tmp_path / "a.db", key)
    assert (found.unfinished, found.lost, found.findings) == (("x",), 3, ())


RECORDS = 9


@pytest.fixture(scope="module")
def written(key_file, tmp_path_factory):
    """A log of nine records in one file, and its head."""
    path = tmp_path_factory.mktemp("log") / "audit.db"
    with closing(AuditLog(path, "node", AuditKey.load(key_file))) as log:
        for number in range(RECORDS):
            head = log.append([entry(number)])
    return path, head


def tampered(written, folder, *statements):
    """A copy of the log after *statements*, as someone with access to the file would run them."""
    path = folder / f"{len(list(folder.iterdir()))}.db"
    path.write_bytes(written[0].read_bytes())
    db = sqlite3.connect(path, isolation_level=None)
    for statement, *values in statements:
        db.execute(statement, values)
    db.close()
    return path


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_to_a_record_is_named(written, key, tmp_path, data):
    number = data.draw(st.integers(0, RECORDS - 1))
    column = data.draw(st.sampled_from(["entry", "leaf", "root", "at_ms", "signature"]))
    path = tampered(written, tmp_path)
    db = sqlite3.connect(path, isolation_level=None)
    ((value,),) = db.execute(f"SELECT {column} FROM audit_records WHERE number = ?", (number,)).fetchall()
    if isinstance(value, int):
        value += data.draw(st.integers(1, 10**6))
    else:
        at = data.draw(st.integers(0, len(value) - 1))
        value = value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    db.execute(f"UPDATE audit_records SET {column} = ? WHERE number = ?", (value, number))
    db.close()
    found = faults(path, key, written[1])
    assert found[0][1:] == (number, number)
    assert found[0][0] in ("changed", "reordered")
    assert len(found) == 1, "the others are as they were written"


VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(alphabet="xyé", max_size=40),
    st.binary(max_size=300),
)


@given(
    st.sampled_from(["number", "entry", "leaf", "root", "at_ms", "signer", "signature", "log"]),
    VALUES,
    st.integers(0, RECORDS - 1),
)
@example("entry", 10**12, 4)
@example("root", b"0" * 300, 4)
@example("number", "x", RECORDS - 1)
@example("log", "x", RECORDS - 1)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_value_of_any_type_in_any_column_is_named(written, key, tmp_path, column, value, number):
    """SQLite takes a value of any type in any column, whatever the column was declared as."""
    assume(not (column == "number" and value in range(RECORDS)))
    path = tampered(written, tmp_path, (f"UPDATE audit_records SET {column} = ? WHERE number = {number}", value))
    assert {fault for fault, _, _ in faults(path, key)} & {"changed", "added", "removed", "reordered", "truncated"}
    with closing(AuditLogs(path)) as logs:
        assert "node" in logs.names()
        assert len(list(entries(logs, "node"))) >= RECORDS - 2
    with contextlib.suppress(ConfigError):
        AuditLog(path, "node", key).close()


@given(st.sampled_from(["size", "peaks"]), VALUES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_whose_state_is_of_any_type_is_not_continued(written, key, tmp_path, column, value):
    path = tampered(written, tmp_path, (f"UPDATE audit_logs SET {column} = ?", value))
    assume(not (column == "size" and value == RECORDS))
    with pytest.raises(ConfigError, match="is not what was written"):
        AuditLog(path, "node", key)
    faults(path, key)


@given(st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_that_is_written_anew_with_its_hash_is_named(written, key, tmp_path, data):
    """Who can write the file can compute hashes, but not sign."""
    number = data.draw(st.integers(0, RECORDS - 1))
    forged = entry(number, identity="someone else").encode("node", number)
    change = "UPDATE audit_records SET entry = ?, leaf = ? WHERE number = ?"
    path = tampered(written, tmp_path, (change, forged, leaf_hash(forged), number))
    assert faults(path, key) == [("changed", number, number)]


@given(st.integers(0, RECORDS - 2), st.integers(1, 3))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_removed_records_are_named(written, key, tmp_path, first, count):
    last = min(first + count, RECORDS - 1) - 1
    path = tampered(written, tmp_path, ("DELETE FROM audit_records WHERE number BETWEEN ? AND ?", first, last))
    assert ("removed", first, last) in faults(path, key)


def test_a_record_removed_and_the_rest_renumbered_is_named(written, key, tmp_path):
    path = tampered(
        written, tmp_path,
        ("DELETE FROM audit_records WHERE number = 3",),
        ("UPDATE audit_records SET number = number - 1 WHERE number = 4",),
    )  # fmt: skip
    found = faults(path, key)
    assert found[0] == ("reordered", 3, 3)
    assert ("removed", 4, 4) in found


def test_two_records_that_changed_places_are_named(written, key, tmp_path):
    path = tampered(
        written, tmp_path,
        ("UPDATE audit_records SET number = 100 WHERE number = 2",),
        ("UPDATE audit_records SET number = 2 WHERE number = 6",),
        ("UPDATE audit_records SET number = 6 WHERE number = 100",),
    )  # fmt: skip
    assert faults(path, key) == [("reordered", 2, 2), ("reordered", 6, 6)]


def test_records_cut_off_at_the_end_are_named(written, key, tmp_path):
    path = tampered(written, tmp_path, ("DELETE FROM audit_records WHERE number >= 6",))
    assert faults(path, key) == [("truncated", 6, 8)]
    size, peaks = 6, MerkleTree()
    db = sqlite3.connect(path)
    for (leaf,) in db.execute("SELECT leaf FROM audit_records ORDER BY number").fetchall():
        peaks.append(leaf)
    db.execute("UPDATE audit_logs SET size = ?, peaks = ?", (size, peaks.peaks))
    db.commit()
    db.close()
    assert faults(path, key) == [], "a shorter log that was whole once is whole: nothing in it shows more"
    assert faults(path, key, written[1]) == [("truncated", 6, 8)], "but a head from outside does"


def test_a_log_made_anew_with_the_stolen_key_is_named_with_a_head_from_outside(written, key, tmp_path):
    with closing(AuditLog(tmp_path / "new.db", "node", key)) as log:
        for number in range(RECORDS):
            log.append([entry(number, identity="someone else")])
    assert faults(tmp_path / "new.db", key) == []
    assert faults(tmp_path / "new.db", key, written[1]) == [("rewritten", 0, RECORDS - 1)]


def test_records_of_another_key_are_named(written, key, tmp_path):
    make_audit_key(tmp_path / "other.key")
    other = AuditKey.load(tmp_path / "other.key")
    assert all(fault == "added" for fault, _, _ in faults(tampered(written, tmp_path), other))
    with pytest.raises(ConfigError, match="written with another key"):
        AuditLog(tampered(written, tmp_path), "node", other)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_records WHERE number = 8",
        "UPDATE audit_records SET root = x'00' WHERE number = 8",
        "UPDATE audit_logs SET size = 8",
        "UPDATE audit_logs SET peaks = x'00'",
        "DELETE FROM audit_logs",
    ],
)
def test_a_log_whose_end_was_altered_is_not_continued(written, key, tmp_path, statement):
    with pytest.raises(ConfigError, match="is not what was written"):
        AuditLog(tampered(written, tmp_path, (statement,)), "node", key)


def test_a_second_writer_of_a_log_is_refused_and_nothing_is_mixed(where, key):
    with closing(AuditLog(where, "node", key)) as first, closing(AuditLog(where, "node", key)) as second:
        first.append([entry(0)])
        with pytest.raises(Exception, match="another process writes the audit log node"):
            second.append([entry(0)])
        first.append([entry(1)])
    assert not checked(where, key).findings


def test_a_head_is_read_as_it_was_printed_and_nothing_else_is_one(written):
    head = written[1]
    assert SignedHead.from_json(head.to_json()) == head
    for text in ("{}", "[]", "1", '{"log": 1}', head.to_json().replace("size", "sizes")):
        with pytest.raises(ValueError):
            SignedHead.from_json(text)


def test_a_key_is_for_its_owner_alone_and_never_overwritten(tmp_path):
    public = make_audit_key(tmp_path / "a.key")
    assert (tmp_path / "a.key").stat().st_mode & 0o077 == 0
    assert AuditPublicKey.load(public).id == AuditKey.load(tmp_path / "a.key").public.id
    with pytest.raises(ConfigError, match="exists"):
        make_audit_key(tmp_path / "a.key")
    (tmp_path / "no.key").write_text("-----BEGIN NONSENSE-----")
    for load in (AuditKey.load, AuditPublicKey.load):
        with pytest.raises(ConfigError, match="no Ed25519 key"):
            load(tmp_path / "no.key")


def test_a_writer_commits_together_what_gathered(tmp_path, key):
    writer = AuditWriter(AuditLog(tmp_path / "a.db", "node", key), required=True)
    written = [writer.record(entry(number)) for number in range(500)]
    assert [each.result(30) for each in written] == [None] * 500
    writer.close()
    found = checked(tmp_path / "a.db", key)
    assert (found.records, found.findings) == (500, ())
    with pytest.raises(AuditFailed, match="closed"):
        writer.record(entry(1)).result(5)


def test_a_full_disk_fails_what_it_loses_and_the_log_says_so_afterwards(tmp_path, key):
    log = AuditLog(tmp_path / "a.db", "node", key)
    writer = AuditWriter(log, required=False)
    writer.record(entry(0)).result(10)
    log._database._db.execute("PRAGMA max_page_count = 1")  # SQLite's own simulation of a full disk
    lost = [writer.record(entry(number, identity="x" * 3000)) for number in range(1, 4)]
    for each in lost:
        with pytest.raises(AuditFailed, match="full"):
            each.result(10)
    log._database._db.execute("PRAGMA max_page_count = 100000")
    writer.record(entry(9)).result(10)
    writer.close()
    found = checked(tmp_path / "a.db", key)
    assert (found.records, found.lost, found.findings) == (3, 3, ())


PROGRAM = """
import sys
from pathlib import Path
from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.keys import AuditKey
from hybrid_llm.backends.audit.log import AuditLog
from hybrid_llm.backends.audit.writer import AuditWriter
writer = AuditWriter(AuditLog(Path(sys.argv[1]), "node", AuditKey.load(Path(sys.argv[2]))), required=True)
number = 0
while True:
    number += 1
    writer.record(AuditEntry(event="begin", at_ms=number, call=str(number))).result()
    print(number, flush=True)
"""


def test_what_was_confirmed_survives_kill_9(tmp_path, key, key_file):
    path = tmp_path / "a.db"
    confirmed = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, path, key_file], stdout=subprocess.PIPE) as program:
            confirmed += int(program.stdout.readline())
            for _ in range(20):
                confirmed += 1 if program.stdout.readline() else 0
            os.kill(program.pid, signal.SIGKILL)
            confirmed += len(program.stdout.read().splitlines())
    found = checked(path, key)
    assert found.findings == ()
    assert confirmed <= found.records <= confirmed + 3


def test_the_file_holds_names_and_numbers_only(written):
    with closing(sqlite3.connect(written[0])) as db:
        for (data,) in db.execute("SELECT entry FROM audit_records").fetchall():
            assert json.loads(data).keys() <= {"event", "at_ms", "call", "outcome", "log", "number"}


REFUSED = st.builds(
    AuditEntry,
    event=st.just("refused"),
    at_ms=st.integers(1, 10**12),
    identity=st.sampled_from(["", "a"]),
    address=st.integers(0, 200).map("192.0.2.{}".format),
    outcome=st.sampled_from(["PermissionDenied", "AuthenticationFailed"]),
)


@given(st.lists(REFUSED, max_size=400))
@settings(max_examples=60)
def test_refused_calls_are_all_counted_in_a_bounded_number_of_records(calls):
    records: list[AuditEntry] = []
    refusals = Refusals(records.append, every_s=1000)
    for call in calls * 3:
        refusals.add(call)
    refusals.close()
    outcomes = {call.outcome for call in calls}
    for outcome in outcomes:
        named = [record.count or 1 for record in records if record.outcome == outcome]
        assert sum(named) == 3 * sum(call.outcome == outcome for call in calls)
    assert len(records) <= 60 + 60 + len(outcomes)
    assert {record.outcome for record in records} == outcomes
    assert {record.address for record in records} <= {call.address for call in calls} | {""}


def test_a_few_refused_calls_are_recorded_as_they_are_and_a_while_later_again():
    """What is known of a call beside its kind, such as its id, is in its own record."""
    records: list[AuditEntry] = []
    summed = threading.Event()

    def record(entry):
        records.append(entry)
        if entry.count:
            summed.set()

    refusals = Refusals(record, every_s=0.2)
    calls = [AuditEntry(event="refused", at_ms=n, outcome="QuotaExceeded", request_id=f"r{n}") for n in range(9)]
    for call in calls:
        refusals.add(call)
    assert summed.wait(10)
    assert records[:5] == calls[:5]
    assert (records[5].count, records[5].at_ms, records[5].request_id) == (4, 8, "")
    refusals.add(calls[0])
    refusals.close()
    refusals.close()
    assert records[6:] == calls[:1]


def test_a_writer_that_is_closed_has_the_sums_of_refused_calls(tmp_path, key):
    writer = AuditWriter(AuditLog(tmp_path / "a.db", "node", key), required=True)
    for number in range(100):
        writer.refuse(AuditEntry(event="refused", at_ms=1 + number, outcome="PermissionDenied"))
    writer.close()
    with closing(AuditLogs(tmp_path / "a.db")) as logs:
        assert [entry.count for _, entry in entries(logs, "node")] == [0] * 5 + [95]
