"""The index answers as the registry itself does, and can be thrown away. On SQLite; on PostgreSQL where one runs."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.models.registry import publish
from hybrid_llm.backends.models.registry.collect import collect
from hybrid_llm.backends.models.registry.listing import OPERATORS, Bound, Filter, listed
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from tests.backends.models.registry.conftest import write_model

sqlalchemy = pytest.importorskip("sqlalchemy")
from hybrid_llm.backends.models.registry.index import RegistryIndex  # noqa: E402


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'index.db'}"
    url = request.getfixturevalue("postgres_server").url
    with sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:")).begin() as db:
        for name in ("versions", "metrics", "lineage", "aliases", "schema"):
            db.execute(sqlalchemy.text(f"drop table if exists hybrid_llm_{name}"))
    return url


@pytest.fixture
def index(database):
    index = RegistryIndex(database)
    yield index
    index.close()


def publish_with(registry, model, seed, name="m", licence="Apache-2.0", **metrics):
    write_model(model, seed=seed)
    entry = {"step": "tune", "digest": "d1", "inputs": {"base": "d0"}}
    (model / "card.json").write_text(json.dumps({"licence": licence, "lineage": [entry], "publishable": True}))
    (model / "step.json").write_text(json.dumps({"metrics": metrics}))
    return publish(registry, model, name).version


@pytest.fixture
def filled(registry, model):
    """Three versions of `m` and one of `n`, with metrics that differ, and an alias."""
    first = publish_with(registry, model, 0, accuracy=0.5)
    publish_with(registry, model, 1, accuracy=0.8, size_mb=10)
    publish_with(registry, model, 2, licence="MIT", size_mb=20)
    publish_with(registry, model, 3, name="n", accuracy=0.9)
    registry.promote("m", first.digest, "prod")
    return registry


FILTERS = st.builds(
    Filter,
    name=st.sampled_from(["", "m", "n", "o"]),
    kind=st.sampled_from(["", "huggingface", "onnx"]),
    task=st.sampled_from(["", "generate", "classify"]),
    licence=st.sampled_from(["", "mit", "apache-2.0"]),
    bounds=st.lists(
        st.builds(
            Bound,
            metric=st.sampled_from(["accuracy", "size_mb", "absent"]),
            operator=st.sampled_from(sorted(OPERATORS)),
            value=st.sampled_from([0.5, 0.8, 10.0, 15.0]),
        ),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(wanted=FILTERS)
def test_the_index_finds_what_the_registry_lists(filled, index, wanted):
    index.refresh(filled)
    key = lambda row: (row.name, row.digest)  # noqa: E731
    assert sorted(index.find(filled, wanted), key=key) == sorted(listed(filled, wanted), key=key)


def test_a_refresh_reads_what_is_new_and_forgets_what_is_gone(filled, index, model):
    assert index.refresh(filled) == (4, 0)
    assert index.refresh(filled) == (0, 0)
    collect(filled, grace_s=0, unused_s=0)
    assert index.refresh(filled) == (0, 3)
    (left,) = index.find(filled, Filter())
    assert left.aliases == ("prod",)
    assert left.about.lineage == {"base": "d0", "tune": "d1"}


def test_what_was_made_from_a_model_is_found(filled, index):
    index.refresh(filled)
    assert {name for name, _, _ in index.lineage("d0")} == {"m", "n"}
    assert index.lineage("nothing") == []


def test_tables_of_another_version_are_filled_anew(filled, index, database):
    index.refresh(filled)
    with index._engine.begin() as db:
        db.execute(sqlalchemy.text("update hybrid_llm_schema set version = 99"))
    other = RegistryIndex(database)
    assert other.find(filled, Filter()) == []
    assert other.refresh(filled) == (4, 0)
    other.close()


def test_several_that_refresh_at_once_end_with_the_whole_index(filled, index, database):
    failed = []

    def refresh():
        other = RegistryIndex(database)
        try:
            other.refresh(filled)
        except ConfigError as error:  # SQLite may be locked by another one
            failed.append(error)
        finally:
            other.close()

    threads = [threading.Thread(target=refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) < 4
    assert len(index.find(filled, Filter())) == 4


@pytest.mark.parametrize(
    "url", ["", "index.db", "mysql://host/x", "sqlite:////no/such/folder/x.db", "postgresql://u:secret@127.0.0.1:1/x"]
)
def test_a_database_that_cannot_be_used_is_an_error_without_its_password(url):
    with pytest.raises(ConfigError) as caught:
        RegistryIndex(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy=0.5", "accuracy>=high", ">=3", "a>1>2"])
def test_a_bound_of_another_form_is_refused(text):
    with pytest.raises(InvalidRequest):
        Bound.parse(text)
