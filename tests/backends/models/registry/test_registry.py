"""Names, versions and aliases: what is published stays, and of two who move an alias one wins."""

from __future__ import annotations

import threading

import pytest

from hybrid_llm.backends.models.registry import AliasMoved, ModelRegistry, NoSuchVersion, publish
from hybrid_llm.core.errors import ConfigError
from tests.backends.models.registry.conftest import write_model


def versions_of(registry, model, count):
    """Publish *count* versions of `m`."""
    return [publish(registry, write_model(model, seed=seed), "m").version for seed in range(count)]


def test_a_version_is_found_by_alias_by_digest_and_as_the_newest(registry, model):
    first, second = versions_of(registry, model, 2)
    registry.promote("m", first.digest, "prod")
    assert registry.resolve("m", "prod") == first
    assert registry.resolve("m", second.short) == second
    assert registry.resolve("m", second.digest) == second
    assert registry.resolve("m").digest in {first.digest, second.digest}
    assert registry.names() == ("m",)


@pytest.mark.parametrize("which", ["canary", "abcdef0123", "a"])
def test_what_is_not_there_is_an_error_that_names_what_is(registry, model, which):
    (version,) = versions_of(registry, model, 1)
    registry.promote("m", version.digest, "prod")
    with pytest.raises(NoSuchVersion, match="prod"):
        registry.resolve("m", which)
    with pytest.raises(NoSuchVersion, match="it has: m"):
        registry.resolve("n")


def test_rollback_returns_to_ever_earlier_versions(registry, model):
    first, second, third = versions_of(registry, model, 3)
    for version in (first, second, third):
        registry.promote("m", version.digest, "prod")
    assert registry.rollback("m", "prod").version == second.digest
    assert registry.rollback("m", "prod").version == first.digest
    with pytest.raises(NoSuchVersion, match="no version before"):
        registry.rollback("m", "prod")
    assert [entry.version for entry in registry.history("m", "prod")] == [
        version.digest for version in (first, second, third, second, first)
    ]


def test_a_promotion_to_the_same_version_is_none(registry, model):
    (version,) = versions_of(registry, model, 1)
    first = registry.promote("m", version.digest, "prod")
    assert registry.promote("m", version.short, "prod") == first
    assert len(registry.history("m", "prod")) == 1


def test_a_promotion_from_another_version_than_expected_changes_nothing(registry, model):
    first, second = versions_of(registry, model, 2)
    registry.promote("m", first.digest, "prod", expect="")
    with pytest.raises(AliasMoved, match="nothing was changed"):
        registry.promote("m", second.digest, "prod", expect=second.digest)
    with pytest.raises(AliasMoved):
        registry.promote("m", second.digest, "prod", expect="")
    assert registry.resolve("m", "prod") == first
    registry.promote("m", second.digest, "prod", expect=first.short)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(registry, model):
    """Both have read where the alias points before either writes."""
    first, second, third = versions_of(registry, model, 3)
    registry.promote("m", first.digest, "prod")
    outcomes, barrier = [], threading.Barrier(2)

    class Meeting(type(registry.storage)):
        def create(self, path, data):
            if path.startswith("aliases/"):
                barrier.wait(10)
            return super().create(path, data)

    other = ModelRegistry(Meeting(registry.storage._root), registry.sealing)

    def promote(version):
        try:
            outcomes.append(other.promote("m", version.digest, "prod").version)
        except AliasMoved as error:
            outcomes.append(error)

    threads = [threading.Thread(target=promote, args=(version,)) for version in (second, third)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, AliasMoved)]
    assert registry.resolve("m", "prod").digest == won
    assert (lost.alias, lost.retryable) == ("prod", True)
    assert len(registry.history("m", "prod")) == 2


@pytest.mark.parametrize("alias", ["Prod", "", "a/b", "../x", "abcdef12"])
def test_an_alias_that_is_no_name_is_refused(registry, model, alias):
    (version,) = versions_of(registry, model, 1)
    with pytest.raises(ConfigError):
        registry.promote("m", version.digest, alias)


@pytest.mark.parametrize(
    "url",
    ["", "models", "http://host/x", "s3://", "file://host/x", "file:///", "s3://key:secret@bucket/x", "s3://b?x=1"],
)
def test_a_url_that_names_no_registry_is_refused_without_its_password(url):
    with pytest.raises(ConfigError) as caught:
        ModelRegistry.open(url)
    assert "secret" not in str(caught.value)


def test_a_folder_without_a_registry_is_not_taken_for_an_empty_one(tmp_path):
    with pytest.raises(ConfigError, match="there is no registry"):
        ModelRegistry.open(tmp_path.as_uri())
    assert list(tmp_path.iterdir()) == []
