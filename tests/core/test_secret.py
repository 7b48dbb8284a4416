"""A secret is named, not written: by `env:NAME` or `file:PATH`, and no message has anything of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.cli.arguments import database
from hybrid_llm.core.secret import Secret, has_password, masked, without_credentials

URL = "postgresql://quotas:hunter2@db.example/quotas"


@given(
    st.text("ab:/@ .", max_size=20),
    st.text("xyz", min_size=1, max_size=8),
    st.text("xyz/@:?", max_size=4).map(lambda odd: odd.replace("://", "")),
)
def test_no_password_of_a_url_is_shown(before, password, odd):
    text = f"{before}https://u:{password}{odd}{password}@h/ and more"
    assert password not in without_credentials(text)
    assert password not in masked(text)
    assert len(masked(text)) == len(text)
    assert has_password(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://db.example:5432/a", "https://db.example:5432/a"),
        ("postgresql://quotas@db.example/quotas", "postgresql://db.example/quotas"),
        ("postgresql://db.example/quotas?sslmode=require", "postgresql://db.example/quotas?sslmode=require"),
        ("postgresql://h/d?user=u&password=hunter2&x=1", "postgresql://h/d?user=u&password=...&x=1"),
    ],
)
def test_the_rest_of_a_url_is_shown(text, shown):
    assert without_credentials(text) == shown
    assert has_password(text) == ("hunter2" in text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("quotas.db", Path("quotas.db")),
        ("postgresql://quotas@db.example/quotas", "postgresql://quotas@db.example/quotas"),
        ("env:QUOTAS_URL", Secret(env="QUOTAS_URL")),
        ("file:/run/secrets/quotas", Secret(file=Path("/run/secrets/quotas"))),
    ],
)
def test_a_command_line_names_where_a_url_is_found(text, found, capsys):
    assert database(text) == found
    assert not capsys.readouterr().err


def test_a_password_on_the_command_line_is_taken_and_warned_of_without_it(capsys):
    assert database(URL) == URL
    message = capsys.readouterr().err
    assert "file:PATH or env:NAME" in message
    assert "hunter2" not in message
