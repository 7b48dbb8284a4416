"""What `serve --model` names."""

from pathlib import Path

import pytest

from hybrid_llm.backends.models.cache import FolderModel, RegistryModel, StoredModel, parse_models
from hybrid_llm.core.errors import ConfigError

KEY = Path("k")


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("models/m", {}, FolderModel(folder=Path("models/m"))),
        ("m", {"default_registry": "r"}, FolderModel(folder=Path("m"))),
        ("s3://bucket/m", {"default_registry": "r"}, StoredModel(url="s3://bucket/m")),
        ("m@prod", {"default_registry": "r"}, RegistryModel(registry="r", name="m", which="prod")),
        ("m", {"registry": "r"}, RegistryModel(registry="r", name="m")),
        (
            "m@1f2e3d",
            {"registry": "r", "default_registry": "other", "key_file": KEY},
            RegistryModel(registry="r", name="m", which="1f2e3d", key_file=KEY),
        ),
    ],
)
def test_a_text_names_a_folder_a_url_or_a_model_of_a_registry(text, options, expected):
    assert parse_models([text], **options) == [expected]


def test_a_folder_with_an_at_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m@prod").mkdir()
    assert parse_models(["m@prod"], default_registry="r") == [FolderModel(folder=Path("m@prod"))]


def test_a_folder_or_a_url_stands_beside_models_of_a_registry():
    """What has a slash is no name of a registry."""
    found = parse_models(["./m", "a@prod", "s3://bucket/b", "c"], registry="r", key_file=KEY)
    assert found == [
        FolderModel(folder=Path("m")),
        RegistryModel(registry="r", name="a", which="prod", key_file=KEY),
        StoredModel(url="s3://bucket/b"),
        RegistryModel(registry="r", name="c", key_file=KEY),
    ]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("m@prod", {}, "--registry URL"),
        ("s3://bucket/m", {"registry": "r"}, "NAME@ALIAS"),
        ("a/b", {"registry": "r"}, "NAME@ALIAS"),
        ("M", {"registry": "r"}, "lower-case"),
        ("s3://bucket/m", {"key_file": KEY}, "--key-file"),
        ("models/m", {"key_file": KEY}, "--key-file"),
    ],
)
def test_what_it_cannot_mean_is_an_error_that_says_what_to_write(text, options, message):
    with pytest.raises(ConfigError, match=message):
        parse_models([text], **options)
