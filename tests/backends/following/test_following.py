"""A device that follows an alias of a registry, with real models, a real registry in a folder, and real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import EdgeConfig, embedded_model
from hybrid_llm.backends.following.keys import FollowSpec, TrialSpec
from hybrid_llm.backends.following.spec import FollowingSpec
from hybrid_llm.backends.models.encoders import convert_encoder
from hybrid_llm.backends.models.registry import publish, pull
from hybrid_llm.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ConfigError,
    HybridLLMError,
    NoEligibleBackend,
    StreamInterrupted,
    UntrustedModel,
)
from hybrid_llm.router.config import parse_config
from tests.backends.http.server import eventually
from tests.encoders import trained

QUESTION = "Count from 3 to 9."
PASSED = TrialSpec(requests=2, errors=0.0, latency=1000.0)


def asked(llm, count=1):
    return [llm.generate(QUESTION, max_tokens=12, deadline=60.0) for _ in range(count)]


def test_the_first_version_replaces_the_model_that_answered_until_then(released, following, client):
    version = released("one")
    backend = following()
    assert (backend.version, backend.capabilities.model, backend.capabilities.notice) == (version, "one", "")
    assert not backend.follower.status.on_trial
    with client(backend) as llm:
        assert asked(llm)[0].text


def test_until_a_version_has_arrived_the_model_of_the_file_answers(registry, following, client, caplog):
    backend = following()
    assert (backend.version, backend.capabilities.model) == ("", "hybrid-demo-edge")
    assert "has no model `demo`" in backend.follower.status.problem or "promote a version" in caplog.text
    with client(backend) as llm:
        assert asked(llm)[0].text


def test_requests_go_on_while_versions_change(released, following, client):
    """32 streams in four threads, each of which is open while the model is replaced, get the whole answer."""
    released("one")
    backend = following(PASSED)
    with client(backend) as llm:
        whole, answers, stop = asked(llm)[0].text, [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answers.append("".join(chunk.text for chunk in llm.stream(QUESTION, max_tokens=12, deadline=60.0)))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for name in ("two", "three"):
            version, had = released(name), len(answers)
            backend.follower.check()
            assert (backend.version, backend.capabilities.model) == (version, name)
            eventually(lambda: len(answers) > had + 3)  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {whole}
    assert not backend._others


def test_an_open_stream_ends_with_the_model_that_it_began_with(released, following, client):
    released("one")
    backend = following()
    with client(backend) as llm:
        whole = asked(llm)[0].text
        stream = llm.stream(QUESTION, max_tokens=12, deadline=60.0)
        first = next(stream).text
        old = backend._served.backend
        released("two")
        backend.follower.check()
        assert backend.capabilities.model == "two"
        assert old.loaded
        assert first + "".join(chunk.text for chunk in stream) == whole
        eventually(lambda: not old.loaded)

        async def asynchronous() -> str:
            chunks = llm.astream(QUESTION, max_tokens=12, deadline=60.0)
            begun = (await anext(chunks)).text
            released("three")
            await asyncio.to_thread(backend.follower.check)
            return begun + "".join([chunk.text async for chunk in chunks])

        assert asyncio.run(asynchronous()) == whole
        assert backend.capabilities.model == "three"


def test_a_replaced_model_is_closed_once_its_last_request_has_ended(released, following, client):
    released("one")
    backend = following()
    with client(backend) as llm:
        whole, old = asked(llm)[0].text, backend._served.backend
        streams = [llm.stream(QUESTION, max_tokens=12, deadline=60.0) for _ in range(2)]
        begun = [next(stream).text for stream in streams]
        released("two")
        backend.follower.check()
        for text, stream in zip(begun, streams, strict=True):
            assert old.loaded
            assert text + "".join(chunk.text for chunk in stream) == whole
        eventually(lambda: not old.loaded)


def test_a_version_that_passes_its_trial_stays_and_the_one_before_is_kept(released, following, client, store):
    old, new = released("one"), None
    backend = following(PASSED)
    with client(backend) as llm:
        asked(llm, 2)
        new = released("two")
        backend.follower.check()
        assert backend.follower.status.on_trial
        asked(llm, 2)
        backend.follower.check()
        assert not backend.follower.status.on_trial
    assert {path.name for path in (store / ".versions" / "demo").iterdir() if path.is_dir()} == {old, new}


class Broken:
    """What a model with a fault does: its answers break off."""

    def __init__(self, inner):
        self._inner = inner

    def __call__(self, cleared):
        yield next(iter(self._inner(cleared)))
        raise StreamInterrupted("broken", backend="edge", received_tokens=1)


def test_a_version_whose_requests_fail_is_taken_back_and_never_tried_again(released, following, client, caplog):
    old = released("one")
    backend = following(TrialSpec(requests=10, errors=0.1))
    with client(backend) as llm:
        asked(llm, 2)
        bad = released("two")
        backend.follower.check()
        backend._served.backend.stream = Broken(backend._served.backend.stream)
        for _ in range(2):
            with pytest.raises(StreamInterrupted):
                asked(llm)
        eventually(lambda: backend.version == old)  # its thread was woken by the request that decided it
        assert asked(llm)[0].text
        assert "requests failed" in backend.follower.status.refused[bad]
        assert f"version {bad} is taken back for {old}" in caplog.text
        backend.follower.check()
        assert backend.version == old
        assert asked(llm)[0].text


def test_a_version_that_is_not_ready_any_more_is_taken_back(released, following, client):
    """No request reaches it, so none can fail."""
    old = released("one")
    backend = following()
    with client(backend) as llm:
        asked(llm)
        bad = released("two")
        backend.follower.check()
        backend._served.backend.close()
        with pytest.raises(NoEligibleBackend):
            asked(llm)
        eventually(lambda: backend.version == old)
        assert backend.follower.status.refused[bad] == "closed"
        assert asked(llm)[0].text


def test_a_trial_that_another_version_ends_counts_for_the_good_one(released, following, client):
    """A version came while another one was on trial: what comes back is what was good before both."""
    good = released("one")
    backend = following(TrialSpec(requests=50))
    with client(backend) as llm:
        asked(llm)
        for name in ("two", "three"):
            bad = released(name)
            backend.follower.check()
            assert (backend.version, backend.follower.status.on_trial) == (bad, True)
        backend._served.backend.close()  # not ready any more
        with pytest.raises(NoEligibleBackend):
            asked(llm)
        eventually(lambda: backend.version == good)
        assert asked(llm)[0].text


def test_what_no_model_could_answer_counts_for_no_version(released, following, client):
    released("one")
    backend = following()
    with client(backend) as llm:
        asked(llm)
        before, error = backend.figures, BackendOverloaded("busy", backend="edge", retry_after=0.0)
        backend._served.backend.stream = lambda cleared: raised(error)
        with pytest.raises(HybridLLMError):
            asked(llm)
        assert backend.figures == before


def raised(error):
    """A stream that ends by *error*."""
    raise error
    yield


def test_a_version_that_is_slower_is_taken_back(released, following, client):
    old = released("one")
    backend = following(TrialSpec(requests=6, latency=1.0, errors=1.0))
    with client(backend) as llm:
        asked(llm, 6)
        figures = backend.figures
        assert figures.ttft_ms is not None
        new = released("two")
        backend.follower.check()
        inner = backend._served.backend.stream

        def slow(cleared):
            for chunk in inner(cleared):
                threading.Event().wait(0.02)
                yield chunk

        backend._served.backend.stream = slow
        asked(llm, 6)
        eventually(lambda: backend.version == old)
        assert "the median time" in backend.follower.status.refused[new]


def broken(folder: Path) -> None:
    """Its graph is none; the manifest is right about its bytes."""
    import json

    from hybrid_llm.backends.edge.folder import digest_file

    (folder / "model.onnx").write_bytes(b"no graph")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    entry = digest_file(folder / "model.onnx")
    manifest["files"]["model.onnx"] = {"sha256": entry.sha256, "bytes": entry.bytes}
    path.write_text(json.dumps(manifest))


def test_a_version_that_cannot_be_loaded_never_answers(released, following, client):
    old = released("one")
    backend = following()
    bad = released("two", change=broken)
    backend.follower.check()
    assert backend.version == old
    assert "cannot be loaded" in backend.follower.status.refused[bad]
    good = released("three")
    with client(backend) as llm:
        assert asked(llm)[0].text
        backend.follower.check()
        assert backend.version == good
        assert asked(llm)[0].text


def test_only_what_has_changed_is_fetched(registry, released, store, tmp_path):
    released("one")
    first = pull(registry, registry.resolve("demo", "prod"), tmp_path / "a")
    released("two")
    second = pull(registry, registry.resolve("demo", "prod"), tmp_path / "b", have=[tmp_path / "a"])
    assert second.received_bytes < first.received_bytes / 100


def test_a_registry_that_is_away_changes_nothing(released, following, client, registry, tmp_path):
    version = released("one")
    backend = following()
    (tmp_path / "registry").rename(tmp_path / "away")
    backend.follower.check()
    assert backend.version == version
    assert backend.follower.status.problem
    with client(backend) as llm:
        assert asked(llm)[0].text
        (tmp_path / "away").rename(tmp_path / "registry")
        backend.follower.check()
        assert not backend.follower.status.problem


def test_devices_outside_the_share_stay_until_they_are_in(released, registry, following):
    old = released("one")
    new = released("two", share=0.5)
    versions = {name: following(device=name).version for name in ("a", "b", "c", "d", "e", "f")}
    assert set(versions.values()) <= {old, new}
    registry.promote("demo", new, "prod")
    assert following(device="a").version == new


PROGRAM = """
import os, signal, sys
from hybrid_llm.backends.edge import EdgeConfig, embedded_model
from hybrid_llm.backends.following.keys import FollowSpec
from hybrid_llm.backends.following.spec import FollowingSpec
spec = FollowSpec(registry=sys.argv[1], model="demo", every_s=86400.0)
backend = FollowingSpec(entry=EdgeConfig(model=embedded_model(), threads=1), follow=spec).open()
backend.follower.check()
print(backend.version, backend.follower.status.on_trial, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_version_that_ends_the_process_is_taken_back_after_some_starts(registry, released, following):
    """Each process is killed while the new version is on trial, as by the system for want of memory."""
    old = released("one")
    following().close()
    new = released("two")
    seen = []
    for _ in range(5):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, registry.url], capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        seen.append(ended.stdout.split()[0])
    assert seen == [new, new, new, old, old]
    backend = following()
    assert backend.version == old
    assert "processes ended" in backend.follower.status.refused[new]


def test_what_one_process_takes_back_another_one_leaves_too(released, following, client):
    old = released("one")
    here, there = following(TrialSpec(requests=1, errors=0.0)), following(PASSED)
    new = released("two")
    here.follower.check()
    there.follower.check()
    assert (here.version, there.version) == (new, new)
    here._served.backend.close()
    with client(here) as llm:
        with pytest.raises(NoEligibleBackend):
            asked(llm)
        eventually(lambda: here.version == old)
    there.follower.check()
    assert there.version == old


def test_a_signature_is_demanded_before_anything_is_fetched(released, registry, store, tmp_path):
    released("one")
    from hybrid_llm.backends.signing.trust import Trust
    from hybrid_llm.backends.wire.certificates import make_authority

    make_authority(tmp_path / "certs")
    spec = FollowSpec(registry=registry.url, model="demo", every_s=86_400.0)
    trust = Trust(ca=tmp_path / "certs" / "ca.pem")
    with pytest.raises((UntrustedModel, ConfigError)):
        FollowingSpec(entry=EdgeConfig(trust=trust, load="eager"), follow=spec).open()
    backend = FollowingSpec(entry=EdgeConfig(trust=trust), follow=spec).open()
    backend.follower.check()
    assert backend.version == ""
    assert "is not signed" in backend.follower.status.problem
    assert not list((store / ".versions").glob("demo/*/model"))
    backend.close()


def test_a_closed_backend_takes_no_new_version(released, following):
    released("one")
    backend = following()
    backend.close()
    released("two")
    backend.follower.check()
    with pytest.raises(BackendUnavailable):
        backend.replace(embedded_model(), "x")
    assert threading.active_count() < 50


def test_the_keys_in_a_file(tmp_path, store):
    text = (
        "version: 1\npolicy: balanced\nbackends:\n  edge:\n    kind: onnx\n    follow:\n"
        "      registry: s3://models/registry\n      model: demo\n      every: 15m\n"
        "      trial: {requests: 50, errors: 5%, latency: 1.5}\n"
    )
    follow = parse_config(text, tmp_path / "hybrid.yaml").backends[0].follow
    assert (follow.every_s, follow.alias, follow.trial.errors) == (900.0, "prod", 0.05)
    with pytest.raises(ConfigError, match="percentage"):
        parse_config(text.replace("5%", "5"), tmp_path / "hybrid.yaml")


def test_a_damaged_state_is_a_fresh_one(released, following, store, caplog):
    version = released("one")
    following().close()
    (store / ".versions" / "demo" / "follow.json").write_text("{")
    assert following().version == version
    assert "cannot be read" in caplog.text


def test_what_is_taken_back_stays_so_for_this_process_where_nothing_can_be_stored(released, following, client, store):
    """As on a full disk: the file of the state cannot be replaced."""
    old = released("one")
    backend = following(PASSED)
    with client(backend):
        new = released("two")
        backend.follower.check()
        assert backend.version == new
        state = store / ".versions" / "demo" / "follow.json"
        state.unlink()
        (state / "in-the-way").mkdir(parents=True)
        backend._served.backend.close()  # not ready any more
        backend.follower.check()
        backend.follower.check()
        assert (backend.version, list(backend.follower.status.refused)) == (old, [new])


def test_a_device_that_can_store_nothing_begins_with_what_it_has(registry, released, following, store):
    released("one")
    following().close()
    new = released("two")
    following(PASSED).close()
    state = store / ".versions" / "demo" / "follow.json"
    text = state.read_text()
    state.unlink()
    (store / "elsewhere.json").write_text(text)
    state.symlink_to(store / "elsewhere.json")
    (store / ".versions" / "demo").chmod(0o500)
    try:
        assert following(PASSED).version == new
    finally:
        (store / ".versions" / "demo").chmod(0o700)


@pytest.mark.parametrize(
    "entry",
    [
        {"number": 2, "previous": 2, "share": 1e-9},
        {"number": 2, "previous": 3, "share": 1e-9},
        {"number": 2, "previous": "1"},
        {"number": 2, "previous": 1, "share": "much"},
        {"number": 2, "previous": 1, "share": [1]},
    ],
)
def test_an_entry_that_leads_nowhere_is_reported_and_the_next_look_is_made(released, registry, following, entry):
    version = released("one")
    backend = following()
    path = Path(registry.url.removeprefix("file://")) / "aliases" / "demo" / "prod" / "0000000002.json"
    digest = registry.resolve("demo", "prod").digest
    path.write_text(json.dumps({"format": 1, "alias": "prod", "version": digest, **entry}))
    backend.follower.check()
    assert "not an entry" in backend.follower.status.problem
    path.write_text("[" * 100_000)
    backend.follower.check()
    assert "not an entry" in backend.follower.status.problem
    path.unlink()
    backend.follower.check()
    assert (backend.version, backend.follower.status.problem) == (version, "")


FOLLOW = """
import sys, threading
from hybrid_llm.backends.edge import EdgeConfig, embedded_model
from hybrid_llm.backends.following.keys import FollowSpec
from hybrid_llm.backends.following.spec import FollowingSpec
spec = FollowSpec(registry=sys.argv[1], model="demo")
backend = FollowingSpec(entry=EdgeConfig(model=embedded_model(), threads=1), follow=spec).open()
while not any(thread.name == "hybrid-llm-pull" for thread in threading.enumerate()):
    pass
"""


def test_a_registry_that_does_not_answer_keeps_no_process_from_exiting(released, registry):
    """A pipe that nobody writes to stands for a piece that never comes."""
    released("one")
    for path in (Path(registry.url.removeprefix("file://")) / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
            os.mkfifo(path)
    ended = subprocess.run([sys.executable, "-c", FOLLOW, registry.url], timeout=60, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_encoder_follows_too(registry, store, tmp_path):
    """Its entry in a file takes the key, and the name of a model in the store."""
    text = "version: 1\npolicy: balanced\nbackends:\n  small: {kind: encoder, model: DIR, follow: FOLLOW}\n"
    follow = f'{{registry: "{registry.url}", model: sentiment}}'
    trained(tmp_path / "trained", tokens=False)
    convert_encoder(tmp_path / "trained", tmp_path / "one", name="one")
    published = publish(registry, tmp_path / "one", "sentiment").version
    registry.promote("sentiment", published.digest, "prod")
    spec = parse_config(text.replace("DIR", "./one").replace("FOLLOW", follow), tmp_path / "hybrid.yaml").backends[0]
    with closing(spec.open()) as backend:
        backend.follower.check()
        assert backend.version == published.short
        assert backend.capabilities.tasks.keys() == {"classify"}
    named = "version: 1\npolicy: balanced\nbackends:\n  small: {kind: encoder, model: sentiment}\n"
    assert parse_config(named, tmp_path / "hybrid.yaml").backends[0].model.name == "model"
