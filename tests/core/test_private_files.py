"""Secrets that we write are for their owner alone, whatever the umask; those that are not are warned of."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.keys import AuditKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLog
from hybrid_llm.backends.wire.certificates import issue, load_key, make_authority
from hybrid_llm.backends.wire.sealing.keys import read_private, write_key
from hybrid_llm.backends.wire.sealing.suites import X25519
from hybrid_llm.core.rights.counters import DatabaseCounters
from hybrid_llm.core.secret import Secret
from hybrid_llm.router.caching.database import AnswerFile
from hybrid_llm.router.spending.stored import DatabaseLedger

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
PUBLIC = ("ca.pem", "app.pem", "x.seal.pub", "audit.key.pub", "issued.jsonl")


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def write_all(folder: Path) -> None:
    """Each database with the files beside it, while it is open, and each key."""
    make_audit_key(folder / "audit.key")
    with closing(AuditLog(folder / "audit.db", "a", AuditKey.load(folder / "audit.key"))) as log:
        log.append([AuditEntry(event="end", at_ms=1)])
        with closing(DatabaseCounters(folder / "quotas.db")) as counters:
            with counters.transaction(writes=True) as changes:
                changes.write("a", "minute", (1, 2, 3))
            DatabaseLedger(folder / "spend.db").close()
            answers = AnswerFile(folder / "answers.db", 1 << 20)
            make_authority(folder / "tls")
            issue(folder / "tls", "app")
            write_key(folder / "sealing", "x", suite=X25519, days=1)
            check_modes(folder)
            del answers


def check_modes(folder: Path) -> None:
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert {
        "audit.db-wal",
        "audit.db-shm",
        "quotas.db-wal",
        "answers.db-wal",
        "ca.key",
        "x.seal",
        "tls",
    } <= found.keys()
    for name, mode in found.items():
        if name not in PUBLIC:
            assert mode == (0o700 if name in ("tls", "sealing") else 0o600), f"{name} has {mode:o}"


@pytest.mark.usefixtures("open_umask")
def test_databases_and_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    write_all(tmp_path)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("audit.key", AuditKey.load),
        ("tls/app.key", load_key),
        ("sealing/x.seal", read_private),
        ("quotas.db", lambda path: DatabaseCounters(path).close()),
        ("answers.db", lambda path: AnswerFile(path, 1 << 20)),
        ("token", lambda path: Secret(file=path).read("token")),
    ],
)
def test_what_everybody_can_read_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, use: Callable[[Path], object]
) -> None:
    write_all(tmp_path)
    (tmp_path / "token").write_text("hl-secret")
    path = tmp_path / name
    path.chmod(0o640)
    use(path)
    assert str(path) not in caplog.text, "a group may be meant"
    path.chmod(0o644)
    for _ in range(3):
        use(path)
    assert caplog.text.count(f"every user of this machine can use {path}") == 1
    assert f"(mode 0644): chmod o-rwx {path}" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert "hl-secret" not in caplog.text
