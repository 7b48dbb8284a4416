"""Which version a device runs while an alias is rolled out to a share of the devices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.following.plan import assigned, position
from hybrid_llm.backends.models.registry import NoSuchVersion

DEVICES = [f"device-{number}" for number in range(400)]


def meant(registry, device):
    latest = registry.alias("demo", "prod")
    return assigned(latest, device, lambda number: registry.entry("demo", "prod", number))[:12]


def test_a_share_of_the_devices_gets_the_new_version_and_a_larger_one_keeps_them(registry, released):
    old = released("one")
    new = released("two", share=0.2)
    first = {device for device in DEVICES if meant(registry, device) == new}
    assert {meant(registry, device) for device in set(DEVICES) - first} == {old}
    assert 0.12 < len(first) / len(DEVICES) < 0.28
    registry.promote("demo", new, "prod", share=0.6)
    more = {device for device in DEVICES if meant(registry, device) == new}
    assert first < more
    assert 0.5 < len(more) / len(DEVICES) < 0.7
    registry.promote("demo", new, "prod")
    assert {meant(registry, device) for device in DEVICES} == {new}
    registry.rollback("demo", "prod")
    assert {meant(registry, device) for device in DEVICES} == {old}


def test_a_version_that_replaces_one_in_roll_out_leaves_the_others_where_they_are(registry, released):
    old = released("one")
    released("two", share=0.3)
    newest = released("three", share=0.3)
    assert {meant(registry, device) for device in DEVICES} == {old, newest}
    registry.rollback("demo", "prod")
    assert {meant(registry, device) for device in DEVICES} == {old}


def test_a_share_needs_a_version_with_which_the_others_stay(registry, released):
    with pytest.raises(NoSuchVersion, match="all devices"):
        released("one", share=0.5)
    assert registry.alias("demo", "prod") is None


@given(device=st.text(max_size=40), version=st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_position_is_stable_and_below_one(device, version):
    assert 0.0 <= position(device, version) < 1.0
    assert position(device, version) == position(device, version)


def test_other_devices_come_first_for_each_version():
    first = [{device for device in DEVICES if position(device, version) < 0.1} for version in ("a", "b")]
    assert first[0] != first[1]
    assert len(first[0] & first[1]) < len(first[0])
