"""A database keeps what was committed and nothing else, in SQLite and in PostgreSQL, through every version."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.core.database import DatabaseBusy, DatabaseError, Schema, open_database
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.secret import Secret
from tests.postgres import forget

FIRST = Schema(
    name="notes of a test",
    application=0x74657374,
    steps=(("CREATE TABLE notes (number BIGINT PRIMARY KEY, text TEXT, raw {bytes})",),),
)
SECOND = replace(FIRST, steps=(*FIRST.steps, ("ALTER TABLE notes ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",)))
INSERT = "INSERT INTO notes (number, text, raw) VALUES (?, ?, ?)"


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "notes.db"
    url = request.getfixturevalue("postgres_server").url
    forget(url, "notes")
    return url


@pytest.fixture
def opened(where):
    made = []

    def make(schema=FIRST):
        made.append(open_database(where, schema))
        return made[-1]

    yield make
    for database in made:
        database.close()


def count(database) -> int:
    with database.transaction(writes=False) as session:
        return session.rows("SELECT count(*) FROM notes")[0][0]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(-(2**63), 2**63 - 1),
    text=st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    raw=st.none() | st.binary(),
)
def test_what_is_stored_is_read_again(opened, number, text, raw):
    first = opened()
    with first.transaction(writes=True) as session:
        session.rows("DELETE FROM notes")
        session.rows(INSERT, number, text, raw)
    with first.transaction(writes=False) as session:
        assert [tuple(row) for row in session.rows("SELECT number, text, raw FROM notes")] == [(number, text, raw)]


def test_a_block_that_raises_stores_nothing(opened):
    database = opened()
    with pytest.raises(KeyError), database.transaction(writes=True) as session:  # noqa: PT012
        session.run_each(INSERT, [(1, "a", b""), (2, "b", b"")])
        raise KeyError
    assert count(database) == 0


def test_a_statement_that_fails_stores_nothing_and_shows_no_value(opened):
    database = opened()
    with pytest.raises(DatabaseError) as caught, database.transaction(writes=True) as session:  # noqa: PT012
        session.rows(INSERT, 1, "a secret", b"")
        session.rows(INSERT, 1, "a secret", b"")
    assert "secret" not in str(caught.value)
    assert count(database) == 0


def test_a_database_is_taken_to_the_next_version_with_its_content(opened):
    with opened().transaction(writes=True) as session:
        session.rows(INSERT, 7, "seven", b"7")
    with opened(SECOND).transaction(writes=False) as session:
        assert tuple(session.rows("SELECT number, colour FROM notes")[0]) == (7, "red")


def test_an_older_program_refuses_a_newer_database_and_leaves_it(opened):
    opened(SECOND)
    with pytest.raises(ConfigError, match="version 2 of the notes of a test, this program knows 1: update it"):
        opened()
    assert count(opened(SECOND)) == 0


def test_many_open_a_new_database_at_once(where):
    errors = []

    def open_one():
        try:
            open_database(where, SECOND).close()
        except ConfigError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_writers_with_one_lock_exclude_each_other(opened):
    first, second = opened(), opened()
    with first.transaction(writes=True, lock="a") as session:
        session.rows(INSERT, 1, "", b"")
        with pytest.raises(DatabaseBusy), second.transaction(writes=True, lock="a"):
            raise AssertionError("two writers at once")
    with second.transaction(writes=True, lock="a") as session:
        session.rows(INSERT, 2, "", b"")
    assert count(first) == 2


def test_a_migration_that_fails_leaves_the_version_before(opened):
    with opened().transaction(writes=True) as session:
        session.rows(INSERT, 7, "seven", b"7")
    broken = replace(FIRST, steps=(*FIRST.steps, ("ALTER TABLE notes ADD COLUMN x TEXT", "ALTER TABLE nothing ADD y")))
    with pytest.raises(ConfigError, match="cannot be opened"):
        opened(broken)
    assert count(opened(SECOND)) == 1


def test_a_connection_that_the_server_ended_is_made_again(postgres_server):
    forget(postgres_server.url, "notes")
    database = open_database(postgres_server.url, FIRST)
    assert count(database) == 0
    postgres_server.stop()
    with pytest.raises(DatabaseError, match="check its URL and that it runs"):
        count(database)
    postgres_server.start()
    assert count(database) == 0
    database.close()


def test_a_password_is_in_no_error():
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError) as caught:
        open_database("postgresql://user:hunter2@127.0.0.1:1/none", FIRST)
    assert "hunter2" not in str(caught.value)


def test_a_url_is_read_from_its_secret_for_each_connection(postgres_server, tmp_path):
    forget(postgres_server.url, "notes")
    secret = tmp_path / "url"
    secret.write_text(postgres_server.url + "\n")
    database = open_database(Secret(file=secret), FIRST)
    with database.transaction(writes=True) as session:
        session.rows("DROP ROLE IF EXISTS renewed")
        session.rows("CREATE ROLE renewed LOGIN")
    secret.write_text(postgres_server.url.replace("postgres@", "renewed@"))
    with pytest.raises(DatabaseError), database.transaction(writes=False) as session:
        session.rows("SELECT pg_terminate_backend(pg_backend_pid())")
    with database.transaction(writes=False) as session:
        assert session.rows("SELECT current_user") == [("renewed",)]
    database.close()


@pytest.mark.parametrize(
    "content", [None, "", "hunter2", "mysql://u:hunter2@h/d", "postgresql://u:hunter2@127.0.0.1:1/d"]
)
def test_a_secret_without_a_database_is_an_error_with_nothing_of_it(tmp_path, content):
    pytest.importorskip("psycopg")
    secret = tmp_path / "url"
    if content is not None:
        secret.write_text(content)
    with pytest.raises(ConfigError) as caught:
        open_database(Secret(file=secret), FIRST)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("where", ["mysql://u:hunter2@h/d", "postgresql:/u:hunter2@h", "postgresql://["])
def test_another_form_is_refused_without_its_password(where):
    with pytest.raises(ConfigError) as caught:
        open_database(where, FIRST)
    assert "hunter2" not in str(caught.value)


def test_another_scheme_is_refused():
    with pytest.raises(ConfigError, match="not mysql:"):
        open_database("mysql://user@host/base", FIRST)


def test_a_file_of_another_program_is_refused_and_not_touched(tmp_path):
    path = tmp_path / "foreign.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is not a notes of a test"):
        open_database(path, FIRST)
    assert path.read_bytes() == before


def test_a_file_whose_tables_are_damaged_is_refused_also_where_sqlites_message_cannot_be_decoded(tmp_path):
    path = tmp_path / "a.db"
    open_database(path, FIRST).close()
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xc5ABLE"))
    with pytest.raises(ConfigError, match="its tables are damaged"):
        open_database(path, FIRST)
