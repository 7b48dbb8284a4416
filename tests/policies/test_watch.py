"""A policy file that changes while it serves."""

import os
import threading
import time

import pytest

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.policies import PolicyFile


def text_of(name: str) -> str:
    return f"version: 1\nname: {name}\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(text_of("one"))
    return path


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_a_change_comes_into_force_and_a_broken_one_does_not(path):
    faults: list[PolicyError] = []
    loaded = []
    with PolicyFile(path, interval=0.01, on_reload=loaded.append, on_error=faults.append) as watched:
        path.write_text(text_of("two"))
        wait_for(lambda: watched.current.name == "two")
        path.write_text("version: 1\nname: [\n")
        wait_for(lambda: watched.error is not None)
        assert watched.current.name == "two"
        path.write_text(text_of("three"))
        wait_for(lambda: watched.current.name == "three")
        assert watched.error is None
    assert [policy.name for policy in loaded][-1] == "three"
    assert faults[0].path == str(path)


def test_a_file_that_an_editor_replaces_is_seen(path, tmp_path):
    watched = PolicyFile(path)
    (tmp_path / "new").write_text(text_of("two"))
    os.replace(tmp_path / "new", path)
    assert watched.reload()
    assert watched.current.name == "two"
    assert not watched.reload()


def test_a_link_that_is_moved_as_kubernetes_does_is_seen(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}" / "policy.yaml").write_text(text_of(name))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    watched = PolicyFile(tmp_path / "policy.yaml")
    (tmp_path / "..tmp").symlink_to("..two")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")
    assert watched.reload()
    assert watched.current.name == "two"


def test_a_file_that_vanishes_leaves_the_policy_in_force(path):
    watched = PolicyFile(path)
    path.unlink()
    assert not watched.reload()
    assert "cannot be read" in str(watched.error)
    path.write_text(text_of("one"))
    assert not watched.reload()
    assert watched.error is None


def test_a_broken_file_at_the_start_is_rejected(tmp_path):
    (tmp_path / "p.yaml").write_text("name: x\n")
    with pytest.raises(PolicyError, match="version"):
        PolicyFile(tmp_path / "p.yaml")


def test_an_interval_of_nothing_is_rejected(path):
    with pytest.raises(ConfigError, match="interval"):
        PolicyFile(path, interval=0.0)


def test_a_callback_that_fails_does_not_end_the_watch(path):
    def fail(_):
        raise RuntimeError("callback")

    with PolicyFile(path, interval=0.01, on_reload=fail) as watched:
        path.write_text(text_of("two"))
        wait_for(lambda: watched.current.name == "two")
        path.write_text(text_of("three"))
        wait_for(lambda: watched.current.name == "three")


def test_nothing_watches_before_start_and_after_close(path):
    before = threading.active_count()
    watched = PolicyFile(path, interval=0.01)
    assert threading.active_count() == before
    watched.start()
    watched.start()
    assert threading.active_count() == before + 1
    watched.close()
    watched.start()
    assert threading.active_count() == before


def test_a_file_that_is_still_being_written_is_not_taken_for_whole(path):
    """Lines arrive for a while, and after each the file would be a policy; only the last one is meant."""
    loaded = []
    with PolicyFile(path, interval=0.2, on_reload=loaded.append) as watched:
        with path.open("w") as file:
            file.write(text_of("slow"))
            for line in range(35):
                file.write(f"# line {line}\n")
                file.flush()
                time.sleep(0.02)
            file.write("rules: [{exclude: cloud}]\n")
        wait_for(lambda: watched.current.rules)
    assert [policy.name for policy in loaded] == ["slow"]
    assert watched.error is None
