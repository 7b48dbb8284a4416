"""What makes a model another one: its files, and of an adapter the base that it is added to."""

import json
import shutil

import pytest

from hybrid_llm.backends.digests import folder_digest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.recipe.digests import digest_path


@pytest.fixture
def adapter(tmp_path):
    """An adapter beside its base."""
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_text("weights")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_text("more weights")
    settings = {"r": 8, "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    return tmp_path / "adapter"


@pytest.mark.parametrize("digest", [folder_digest, digest_path])
@pytest.mark.parametrize("changed", ["adapter/adapter_model.safetensors", "base/model.safetensors", "base/config.json"])
def test_an_adapter_is_another_model_when_its_base_is(adapter, digest, changed):
    before = digest(adapter)
    (adapter.parent / changed).write_text('{"other": 1}')
    assert digest(adapter) != before


def test_an_adapter_is_the_same_model_wherever_both_lie(adapter, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved / "adapter")
    shutil.copytree(adapter.parent / "base", moved / "base")
    settings = moved / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(tmp_path / "base"), str(moved / "base")))
    (moved / "adapter" / "base.json").write_text(json.dumps({"path": str(moved / "base")}))
    assert folder_digest(moved / "adapter") == folder_digest(adapter)
    settings.write_text(settings.read_text().replace('"r": 8', '"r": 9'))
    assert folder_digest(moved / "adapter") != folder_digest(adapter)


@pytest.mark.parametrize("name", ["model.sig", "card.json", "step.json", "README.md"])
def test_a_signature_and_what_is_written_about_a_model_make_no_other_one(adapter, name):
    before = folder_digest(adapter), digest_path(adapter)
    (adapter / name).write_text("{}")
    assert (folder_digest(adapter), digest_path(adapter)) == before


def test_an_adapter_whose_base_is_not_here_has_no_digest_as_a_backend_but_can_be_merged_into_another(adapter):
    before = digest_path(adapter)
    shutil.rmtree(adapter.parent / "base")
    with pytest.raises(ConfigError, match="is no model folder here"):
        folder_digest(adapter)
    assert digest_path(adapter) != before
