"""The store: one process at a time for each name, nothing half-done, and errors that say what to do."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_llm import generate
from hybrid_llm.backends.chat_files import read_sampling
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, ModelStore, embedded_model
from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.manifests import staging, write_manifest
from hybrid_llm.backends.models.sources import Wanted, parse_source
from hybrid_llm.backends.models.store import Addition, add, remove, use, verify
from hybrid_llm.core.errors import ConfigError, SecurityError

COMMAND = str(Path(sys.executable).with_name("hybrid-llm"))


def addition(source=None, name="copy", **wanted):
    return Addition(name=name, source=parse_source(str(source or embedded_model())), wanted=Wanted(**wanted))


def added(store, source=None, name="copy", **wanted):
    return add(store, addition(source, name, **wanted), report=lambda _, share: None)


def remains(store):
    """What is in the store besides its models, its default and its locks."""
    return [path for part in (".staging", ".downloads") for path in (store.root / part).glob("*")]


def start(*arguments, **options):
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def in_mount(script):
    """Run a shell *script* with mounts of its own; skipped where that is not allowed."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    return subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=False)


def test_the_first_model_is_the_default_and_others_are_not(store):
    assert (store.names(), store.default) == ((), "")
    assert added(store).is_default
    assert not added(store, name="other").is_default
    assert (store.names(), store.default) == (("copy", "other"), "copy")
    use(store, "other")
    assert store.default == "other"
    assert EdgeConfig().folder == store.folder("other")
    use(store, "embedded")
    assert EdgeConfig().folder == embedded_model()
    assert remains(store) == []


def test_an_added_model_answers_as_its_original_and_without_its_notice(store):
    original = EdgeBackend(EdgeConfig(model=embedded_model()))
    folder = added(store).folder
    copy = EdgeBackend(EdgeConfig(model=folder))
    try:
        assert original.capabilities.notice
        assert not copy.capabilities.notice
        assert copy.capabilities.context_window == original.capabilities.context_window
    finally:
        original.close()
        copy.close()


def test_the_answer_of_the_embedded_model_says_in_the_record_how_to_get_a_real_one():
    reply = generate("Is this review positive? 'A warm, funny film.'", max_tokens=4)
    assert "hybrid-llm models add smollm2-135m" in reply.to_dict()["notice"]


def test_adding_it_again_is_nothing_new_and_another_one_of_its_name_is_refused(store, tmp_path):
    added(store)
    assert added(store).was_there
    shutil.copytree(embedded_model(), tmp_path / "else")
    with pytest.raises(ConfigError, match="choose another name with --name"):
        added(store, tmp_path / "else")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "A", "a/b", "embedded", "default", ".locks", "x" * 65, "a\n"])
def test_a_name_that_is_no_plain_word_is_refused(store, name):
    with pytest.raises(ConfigError):
        added(store, name=name)
    assert not store.root.exists()


def test_the_default_is_removed_only_by_force_and_then_the_embedded_one_is_it(store):
    added(store)
    with pytest.raises(ConfigError, match="--force"):
        remove(store, "copy")
    assert remove(store, "copy", force=True) > 1_000_000
    assert (store.names(), store.default) == ((), "")
    assert EdgeConfig().folder == embedded_model()
    with pytest.raises(ConfigError, match="there is no model `copy`"):
        remove(store, "copy")


def test_the_embedded_model_is_verified_and_never_removed(store):
    for force in (False, True):
        with pytest.raises(ConfigError, match="a part of hybrid-llm"):
            remove(store, "embedded", force=force)
    assert verify(store, "embedded").name == "hybrid-demo-edge"


def test_a_folder_that_holds_no_model_is_refused_before_it_is_read(store, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("private")
    steps = []
    addition = Addition(name="notes", source=parse_source(str(tmp_path / "notes")), wanted=Wanted(), license="MIT")
    with pytest.raises(ConfigError, match="holds no model"):
        add(store, addition, report=lambda step, share: steps.append(step))
    assert steps == []


def test_a_default_that_is_gone_is_an_error_and_not_another_model(store):
    added(store)
    shutil.rmtree(store.root / "copy")
    with pytest.raises(ConfigError, match="there is no model `copy`"):
        EdgeBackend(EdgeConfig())


def test_verify_finds_every_change(store):
    folder = added(store).folder
    assert verify(store, "copy").name
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"license"', '"licence"'))
    with pytest.raises(ConfigError, match="is modified"):
        verify(store, "copy")
    manifest.write_text(text)
    weights = folder / "model.onnx.data"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConfigError, match="SHA-256"):
        verify(store, "copy")


def test_sampling_is_recommended_where_the_model_itself_says_nothing(store, tmp_path):
    wanted = replace(addition(name="mild"), sampling={"temperature": 0.2, "top_p": 0.9})
    mild = add(store, wanted, report=lambda _, share: None).folder
    assert read_sampling(mild) == {"temperature": 0.2, "top_p": 0.9}
    assert verify(store, "mild")
    other = replace(addition(mild, "own"), sampling={"temperature": 1.5})
    assert read_sampling(add(store, other, report=lambda _, share: None).folder)["temperature"] == 0.2


def test_a_damaged_folder_and_another_hash_are_refused_and_leave_nothing(store, tmp_path):
    source = Path(shutil.copytree(embedded_model(), tmp_path / "source"))
    with pytest.raises(SecurityError):
        added(store, source, sha256="0" * 64)
    (source / "model.onnx.data").write_bytes(b"")
    with pytest.raises(ConfigError, match="incomplete"):
        added(store, source)
    (tmp_path / "note.txt").write_text("no model")
    with pytest.raises(ConfigError, match=r"neither a \.gguf file"):
        added(store, tmp_path / "note.txt")
    assert (store.names(), remains(store)) == ((), [])


def test_two_processes_that_add_one_model_wait_for_each_other_and_both_have_it(store):
    (store.root / ".locks").mkdir(parents=True)
    with locked(store.root / ".locks", "copy", lambda: None):
        both = [start("models", "add", embedded_model(), "--name", "copy") for _ in range(2)]
        for process in both:
            assert "waiting for another process" in process.stderr.readline()
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("is there already" in out for out in outputs) == [False, True]
    assert verify(store, "copy")


def test_what_a_killed_process_left_is_cleared_by_the_next_one(store):
    (store.root / ".staging" / "copy" / "model").mkdir(parents=True)
    (store.root / ".staging" / "other").mkdir()
    (store.root / ".downloads" / "0123456789abcdef").mkdir(parents=True)
    os.utime(store.root / ".downloads" / "0123456789abcdef", (0, 0))
    added(store)
    assert remains(store) == []


def test_a_process_that_is_killed_in_mid_download_leaves_no_model_and_frees_its_lock(store, server):
    server.content = bytes(1_000_000)
    server.cuts = [500_000]
    server.pause.clear()
    process = start("models", "add", server.url("m.gguf"), "--name", "m")
    while "50 %" not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert store.names() == ()
    (part,) = (store.root / ".downloads").glob("*/*.part")
    assert part.stat().st_size == 500_000
    server.pause.set()
    again = start("models", "add", server.url("m.gguf"), "--name", "m")
    assert "not" in again.communicate(timeout=60)[1], "zeros are no GGUF"
    assert server.ranges[-1] == "bytes=500000-"
    assert remains(store) == []


def test_ctrl_c_ends_with_130_and_a_next_run_can_go_on(store, server):
    server.content, server.cuts = bytes(1_000_000), [500_000]
    server.pause.clear()
    process = start("models", "add", server.url("m.gguf"), "--name", "m")
    while "50 %" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert store.names() == ()
    assert list((store.root / ".staging").iterdir()) == []


def test_the_first_download_is_pinned_and_a_later_one_that_differs_is_refused(store, server):
    server.content = b"GGUF"
    source = parse_source(server.url("m.gguf"))
    store.root.mkdir()
    (store.root / ".pins.json").write_text(json.dumps({source.text: {"sha256": "0" * 64}}))
    with pytest.raises(SecurityError, match="expected 0000"):
        added(store, server.url("m.gguf"))
    (store.root / ".pins.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        added(store, server.url("m.gguf"))


def test_a_store_on_a_full_disk_is_an_error_before_anything_is_written(store):
    mount = f"mkdir -p {store.root} && mount -t tmpfs -o size=4m none {store.root}"
    done = in_mount(
        f'{mount} && {COMMAND} models add {embedded_model()} --name copy || test -z "$(find {store.root} -size +9k)"'
    )
    assert "free some space" in done.stderr
    assert done.returncode == 0, "nothing large is left"


def test_a_disk_that_fills_up_in_the_middle_is_an_error_that_leaves_nothing(store):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = start("models", "add", embedded_model(), "--name", "copy", preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "free some space" in err
    assert (store.names(), remains(store)) == ((), [])


def test_a_store_that_cannot_be_written_is_read_and_says_so_when_it_should_change(store):
    added(store)
    mount = f"mount --bind {store.root} {store.root} && mount -o remount,ro,bind {store.root}"
    done = in_mount(
        f"{mount} && {COMMAND} models verify && {COMMAND} models add {embedded_model()} --name copy"
        f" && {COMMAND} models add {embedded_model()} --name more"
    )
    assert "as they were added" in done.stdout
    assert "is there already" in done.stdout
    assert "cannot be written" in done.stderr
    assert "HYBRID_LLM_MODELS" in done.stderr
    assert done.returncode == 3


def test_a_path_that_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="HYBRID_LLM_MODELS"):
        added(ModelStore(tmp_path / "file" / "store"))


def encoder_folder(folder):
    """A folder of an encoder, as far as the store reads it."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        (folder / name).write_text("{}")
    write_manifest(
        folder, name="topics", architecture="Bert", precision="int8", parameters=1, libraries=(),
        sizes={"context_length": 32, "vocab_size": 100},
    )  # fmt: skip
    return folder


def test_an_encoder_is_no_default_model(tmp_path):
    store = ModelStore(tmp_path / "store")
    found = added(store, encoder_folder(tmp_path / "encoder"), name="topics")
    assert (found.is_default, store.default, found.manifest.kind) == (False, "", "encoder")
    with pytest.raises(ConfigError, match=r"`topics` classifies, and answers no prompts: .*`kind: encoder`"):
        use(store, "topics")
    with pytest.raises(ConfigError, match="`kind: encoder`, which classifies"):
        EdgeBackend(EdgeConfig(model=store.folder("topics")))
    assert added(store).is_default


def test_staging_of_killed_processes_goes_and_that_of_others_stays(tmp_path):
    (tmp_path / ".[a].partial-killed").mkdir()
    with staging(tmp_path / "[a]") as folder:
        assert [path.name for path in tmp_path.glob(".*.partial-*")] == [folder.name]
        with pytest.raises(ConfigError, match="another process makes"), staging(tmp_path / "[a]"):
            pass
        with staging(tmp_path / "b"):
            pass
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())
