"""A file that is broken or made to harm is refused with a reason, in bounded memory, and leaves nothing behind."""

import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.layout import check_tensors
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.shape import read_shape
from hybrid_llm.backends.models.gguf.vocabulary import read_vocabulary
from hybrid_llm.backends.template_probe import probe_template
from hybrid_llm.core.errors import ConfigError
from tests.ggufs import SIZES, TEMPLATE, llama_metadata, llama_tensors, small_llama, tokenizer_metadata, write_file

PEAK = 24 << 20
"""Bytes that reading a small file may allocate, whatever it says."""
HUGE = [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 62) + 8, (1 << 64) - 1]


def read_everything(path):
    with Gguf(path) as file:
        shape = read_shape(file)
        check_tensors(file, shape)
        read_vocabulary(file, shape.vocab_size)
        for tensor in file.tensors.values():
            read_dense(file, tensor, 0, 1)


def check_refused_or_read(path, data):
    path.write_bytes(data)
    tracemalloc.start()
    try:
        read_everything(path)
    except ConfigError as error:
        assert str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < PEAK


def header_size(data: bytes) -> int:
    return data.rindex(b"output_norm.weight") + 64


fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.data())
def test_changed_bytes_of_the_header_never_do_harm(small, tmp_path, data):
    content = bytearray(small.read_bytes())
    last = header_size(content) - 8  # while its names are whole
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, last))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            struct.pack_into("<Q", content, at, data.draw(st.sampled_from(HUGE)))
    check_refused_or_read(tmp_path / "x.gguf", content)


@fuzz
@given(st.floats(0, 1), st.booleans())
def test_a_truncated_file_is_refused(small, tmp_path, share, in_header):
    content = small.read_bytes()
    size = int(share * (header_size(content) if in_header else len(content) - 1))
    path = tmp_path / "x.gguf"
    path.write_bytes(content[:size])
    with pytest.raises(ConfigError, match=r"incomplete|not a GGUF"):
        Gguf(path)


@fuzz
@given(st.binary(max_size=4096))
def test_any_bytes_behind_the_magic_number_are_refused_or_read(tmp_path, tail):
    check_refused_or_read(tmp_path / "x.gguf", b"GGUF" + struct.pack("<I", 3) + tail)


def header(*, tensors=0, keys=0, body=b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


BROKEN = {
    "not a GGUF file": b"PK\x03\x04" + bytes(100),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "announces 4,611,686,018,427,387,904 keys": header(keys=1 << 62),
    "announces 60,000 tensors": header(tensors=60_000),
    "a string of 1,099,511,627,776 bytes": header(keys=1, body=struct.pack("<Q", 1 << 40) + bytes(64)),
    "only strings and numbers": header(keys=1, body=text("a") + struct.pack("<IIQIQ", 9, 9, 1, 4, 0)),
    "announces 1,000,000 strings": header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 8, 1_000_000)),
    "announces 4,000,000 numbers": header(keys=1, body=text("a") + struct.pack("<IIQ", 9, 4, 4_000_000)),
    "unknown type 77": header(keys=1, body=text("a") + struct.pack("<I", 77) + bytes(16)),
    "has the key 'a' twice": header(keys=2, body=2 * (text("a") + struct.pack("<II", 4, 1))),
    "not UTF-8": header(keys=1, body=struct.pack("<Q", 2) + b"\xff\xfe" + bytes(16)),
    "general.alignment": header(keys=1, body=text("general.alignment") + struct.pack("<II", 4, 3)),
    "5 dimensions": header(tensors=1, body=text("a") + struct.pack("<I", 5) + bytes(64)),
    "which Q4_0 cannot hold": header(tensors=1, body=text("a") + struct.pack("<IQIQ", 1, 33, 2, 0)),
    "the shape \\[0\\]": header(tensors=1, body=text("a") + struct.pack("<IQIQ", 1, 0, 0, 0)),
    "needs 73,786,976,294,838,206,464 bytes": header(
        tensors=1, body=text("a") + struct.pack("<IQQIQ", 2, 1 << 32, 1 << 32, 0, 0)
    ),
    "a is Q2_K, which cannot be imported": header(tensors=1, body=text("a") + struct.pack("<IQIQ", 1, 256, 10, 0)),
    "ends at byte": header(tensors=1, body=text("a") + struct.pack("<IQIQ", 1, 8, 0, 1 << 40)),
    "unaligned": header(tensors=1, body=text("a") + struct.pack("<IQIQ", 1, 8, 0, 8)) + bytes(99),
    "begins inside a": header(tensors=2, body=b"".join(text(n) + struct.pack("<IQIQ", 1, 16, 0, 0) for n in "ab"))
    + bytes(256),
    "the tensor 'a' twice": header(
        tensors=2, body=b"".join(text("a") + struct.pack("<IQIQ", 1, 8, 0, at) for at in (0, 32))
    )
    + bytes(256),
}  # fmt: skip


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_header_is_refused_with_the_reason(tmp_path, reason):
    path = tmp_path / "x.gguf"
    path.write_bytes(BROKEN[reason])
    with pytest.raises(ConfigError, match=reason):
        Gguf(path)


def changed(path, *, architecture="llama", tensors=(), without=(), **metadata):
    values = {**llama_metadata(), **tokenizer_metadata(SIZES["vocab"]), **metadata}
    weights = {name: value for name, value in llama_tensors().items() if name not in without} | dict(tensors)
    return write_file(path, architecture, weights, {k: v for k, v in values.items() if v is not None})


NAN = {"blk.0.attn_norm.weight": np.full(256, np.nan)}
WRONG = {
    "architecture 'mamba'": {"architecture": "mamba"},
    "lacks the tensor blk.1.ffn_up.weight": {"without": ("blk.1.ffn_up.weight",)},
    "tensor 'blk.0.ffn_gate_exps.weight'": {"tensors": {"blk.0.ffn_gate_exps.weight": np.zeros((4, 256))}},
    r"shape \[128, 256\] instead of \[256, 256\]": {"tensors": {"blk.0.attn_q.weight": np.zeros((128, 256))}},
    "not finite": {"tensors": NAN},
    "llama.expert_count, which is not known": {".expert_count": 8},
    "llama.attention.clamp_kqv": {".attention.clamp_kqv": 8.0},
    "head_count must be a whole number": {".attention.head_count": 0},
    "cannot be computed together": {".attention.head_count_kv": 3},
    "rms_epsilon must be a number": {".attention.layer_norm_rms_epsilon": float("nan")},
    "only none, linear and yarn": {".rope.scaling.type": "longrope"},
    "sliding window, which is not known": {"architecture": "qwen2", ".attention.sliding_window": 64},
    "too short for a question": {".context_length": 9},
    r"shape \[64, 256\] instead of 512 rows": {
        "architecture": "phi3",
        "tensors": {"blk.0.attn_qkv.weight": np.zeros((64, 256))},
    },
    "rope_factors_short.weight must hold positive": {
        "architecture": "phi3",
        ".rope.scaling.original_context_length": 64,
        "tensors": {f"rope_factors_{name}.weight": np.zeros(32) for name in ("long", "short")},
    },
    "for 320 rows of embeddings": {"tokenizer.ggml.tokens": ["a"]},
    "the same token twice": {"tokenizer.ggml.tokens": ["a"] * 320},
    "a number for each of 320 tokens": {"tokenizer.ggml.token_type": [1, 2, 3]},
    "eos_token_id is 4000": {"tokenizer.ggml.eos_token_id": 4000},
    "does not name its pre-tokenizer": {"tokenizer.ggml.pre": None},
    "pre-tokenizer 'new-bpe', which is not known": {"tokenizer.ggml.pre": "new-bpe"},
    "tokenizer 'rwkv', which is not known": {"tokenizer.ggml.model": "rwkv"},
    "no token that ends an answer": {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.token_type": [1] * 320},
    "no chat template": {"tokenizer.chat_template": None},
    "not a tokenizer of the tokenizers library": {"tokenizer.ggml.merges": ["nothing here"]},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_model_that_would_be_wrong_is_refused_with_the_reason_and_leaves_nothing(tmp_path, reason):
    path = changed(tmp_path / "x.gguf", **WRONG[reason])
    with pytest.raises(ConfigError, match=reason):
        import_gguf(path, tmp_path / "out", name="x")
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]


def test_a_scale_that_is_not_a_number_is_refused(small, tmp_path):
    content = bytearray(small.read_bytes())
    with Gguf(small) as file:
        struct.pack_into("<H", content, file.tensors["blk.1.ffn_down.weight"].offset, 0x7E00)
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"blk\.1\.ffn_down\.weight has a scale that is not a finite number"):
        import_gguf(path, tmp_path / "out", name="x")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no') }}", "fails on a plain conversation .TemplateError: no"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", "SecurityError"),
        ("hello", "leaves out what the user says"),
        ("{{ messages[0].content * 4000000000 }}", "512 MB"),
        (
            "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
            "512 MB",
        ),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "5 s|20 s"),
        ("x" * (1 << 19), "262,144"),
    ],
)
def test_a_chat_template_is_tried_within_limits(template, reason):
    found = probe_template(template, {"bos_token": "", "eos_token": ""})
    assert re.search(reason, found.problem), found.problem


def test_a_template_that_fails_refuses_the_file(tmp_path):
    path = small_llama(tmp_path / "x.gguf", chat_template="{{ raise_exception('no') }}")
    with pytest.raises(ConfigError, match="its chat template cannot be used: it fails on a plain conversation"):
        import_gguf(path, tmp_path / "out", name="x")
    manifest = import_gguf(path, tmp_path / "out", name="x", chat_template=TEMPLATE)
    assert manifest.created_with["chat_template"] == "named by the user"
    assert "torch" not in manifest.created_with


def test_an_existing_folder_is_not_touched(small, tmp_path):
    with pytest.raises(ConfigError, match="exists"):
        import_gguf(small, tmp_path, name="x")
