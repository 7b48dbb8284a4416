"""A model folder is used only after every file and number in it was checked; loading sends no telemetry."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, read_manifest, verify_manifest
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models import write_manifest
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError


def test_a_whole_folder_verifies(tiny):
    manifest = verify_manifest(tiny.int4)
    assert (manifest.precision, manifest.context_window, manifest.vocab_size) == ("int4", 2048, 1024)
    assert {"model.onnx", "genai_config.json", "tokenizer.json"} <= set(manifest.files)


def test_an_unknown_folder_is_refused_when_the_backend_is_made():
    with pytest.raises(ConfigError, match="no such directory"):
        EdgeBackend(EdgeConfig(model=Path("/nowhere/model")))


def test_a_folder_without_manifest_is_refused(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="models convert"):
        EdgeBackend(EdgeConfig(model=copy))


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json", "genai_config.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named_before_the_runtime_sees_it(copy, name, damage):
    path = copy / name
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    words = {"truncate": "incomplete", "flip": "SHA-256", "remove": "missing"}[damage]
    with pytest.raises(ConfigError, match=words) as caught:
        EdgeModel(copy, threads=1)
    assert caught.value.path == str(path)


def test_a_file_that_the_manifest_does_not_list_is_refused(copy):
    (copy / "extra.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match="not listed"):
        verify_manifest(copy)


def _change_manifest(copy, **values):
    data = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**data, **values}))


@pytest.mark.parametrize(
    "values",
    [
        {"format_version": 2},
        {"files": {}},
        {"files": {"../x": {"sha256": "0" * 64, "bytes": 1}}},
        {"files": {"model.onnx": {"sha256": "0", "bytes": 1}}},
        {"files": []},
        {"context_window": 0},
        {"context_window": True},
        {"name": 7},
    ],
)
def test_a_manifest_in_another_form_is_refused(copy, values):
    _change_manifest(copy, **values)
    with pytest.raises(ConfigError, match="not a model manifest"):
        read_manifest(copy)


def test_a_manifest_that_is_no_json_is_refused(copy):
    (copy / "manifest.json").write_text('{"format_version": 1,')
    with pytest.raises(ConfigError, match="not a model manifest"):
        read_manifest(copy)


def _change_config(copy, section, key, value):
    path = copy / "genai_config.json"
    config = json.loads(path.read_text())
    target = config["model"] if section == "model" else config["model"]["decoder"]
    if section in ("inputs", "outputs"):
        target = target[section]
    target[key] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("decoder", "head_size", 64),
        ("decoder", "head_size", 0),
        ("decoder", "head_size", "32"),
        ("decoder", "num_key_value_heads", 4),
        ("decoder", "num_hidden_layers", 1),
        ("decoder", "num_hidden_layers", 3),
        ("decoder", "filename", "../model.onnx"),
        ("decoder", "filename", "other.onnx"),
        ("inputs", "past_key_names", "past.key"),
        ("inputs", "input_ids", "wrong"),
        ("outputs", "logits", ""),
        ("model", "vocab_size", 2048),
        ("model", "vocab_size", 900),
        ("model", "context_length", -1),
        ("model", "eos_token_id", 99_999),
    ],
)
def test_wrong_values_in_the_configuration_are_refused_though_the_digests_are_right(copy, section, key, value):
    """The runtime takes such values silently and answers nonsense, or reads wild memory."""
    manifest = read_manifest(copy)
    _change_config(copy, section, key, value)
    (copy / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError):  # noqa: PT012 - either may find the fault
        write_manifest(copy, name="x", architecture="x", precision="int4", parameters=manifest.parameters)
        EdgeModel(copy, threads=1)


def test_a_manifest_that_differs_from_the_configuration_is_refused(copy):
    _change_manifest(copy, context_window=4096)
    with pytest.raises(ConfigError, match="the manifest has 4096"):
        EdgeBackend(EdgeConfig(model=copy))


def test_a_graph_that_the_runtime_refuses_is_a_config_error(copy):
    (copy / "model.onnx").write_bytes(b"not a graph")
    write_manifest(copy, name="x", architecture="x", precision="int4", parameters=1)
    with pytest.raises(ConfigError, match="cannot load"):
        EdgeModel(copy, threads=1)


def test_a_tokenizer_larger_than_the_model_is_refused(copy):
    from tests.shapes import synthetic_tokenizer

    synthetic_tokenizer(2000).save(str(copy / "tokenizer.json"))
    write_manifest(copy, name="x", architecture="x", precision="int4", parameters=1)
    with pytest.raises(ConfigError, match="do not belong together"):
        EdgeModel(copy, threads=1)


def test_a_fresh_cache_is_empty(tiny):
    """What an earlier request left in memory cannot be seen: the first logits do not depend on it."""
    model = EdgeModel(tiny.int4, threads=1)
    used = model.sequence(600)
    used.append([7] * 500)
    first = model.sequence(600).append([9]).copy()
    assert model.sequence(600).length == 0
    np.testing.assert_array_equal(model.sequence(50).append([9]), first)


# --- telemetry --------------------------------------------------------------------------------------------------------

LOAD = """
    import socket, sys
    sys.addaudithook(lambda event, args: event.startswith("socket.") and event != "socket.__new__" and print(event))
    from pathlib import Path
    from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
    backend = EdgeBackend(EdgeConfig(model=Path(sys.argv[1]), load="eager", threads=1))
    import os, time
    time.sleep(1.0)
    open_files = [path for path in map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd")) if os.path.lexists(path)]
    print("sockets", sum(os.readlink(path).startswith("socket:") for path in open_files))
    backend.close()
"""
BARE = """
    import onnxruntime, time, sys
    onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", providers=["CPUExecutionProvider"])
    time.sleep(1.0)
"""


def run_at_home(home, script, *args, **env):
    """Run *script* in a process of its own, whose home directory is *home* and empty."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_", "HOME"))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        env={**clean, "HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def files_under(home):
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc and at Linux paths")
def test_loading_a_model_leaves_no_telemetry_file_and_no_socket(tiny, tmp_path):
    done = run_at_home(tmp_path, LOAD, tiny.int4)
    assert files_under(tmp_path) == []
    assert done.stdout.split() == ["sockets", "0"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at Linux paths")
def test_the_check_for_telemetry_can_fail(tiny, tmp_path):
    """Without the variable onnxruntime writes a device id, and the check above would see it."""
    run_at_home(tmp_path, BARE, tiny.int4)
    if not files_under(tmp_path):
        pytest.skip("this build of onnxruntime writes no telemetry")
    assert any("onnxruntime" in name for name in files_under(tmp_path))


def test_an_app_that_imported_onnxruntime_first_is_warned(tmp_path):
    script = """
        import onnxruntime, warnings
        from hybrid_llm.backends.edge.runtime import load_runtime
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_runtime()
            load_runtime()
        print(len(caught), caught[0].category.__name__, "ORT_DISABLE_TELEMETRY" in str(caught[0].message))
    """
    assert run_at_home(tmp_path, script).stdout.split() == ["1", "RuntimeWarning", "True"]
    quiet = script.replace("caught[0].category.__name__, ", "").replace(
        '"ORT_DISABLE_TELEMETRY" in str(caught[0].message)', "0"
    )
    assert run_at_home(tmp_path, quiet, ORT_DISABLE_TELEMETRY="1").stdout.split() == ["0", "0"]


def test_importing_the_backend_loads_no_runtime_and_starts_no_thread(tmp_path):
    script = """
        import sys, threading
        import hybrid_llm.backends.edge
        heavy = {"onnxruntime", "numpy", "tokenizers", "jinja2", "llguidance", "torch", "transformers"}
        print(sorted(heavy & set(sys.modules)), threading.active_count())
    """
    assert run_at_home(tmp_path, script).stdout.strip() == "[] 1"


def test_a_model_without_chat_template_is_refused_rather_than_given_bare_text(copy):
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": None}))
    with pytest.raises(ConfigError, match=r"has no chat template: .* add chat_template\.jinja"):
        ChatTokenizer.load(copy)
