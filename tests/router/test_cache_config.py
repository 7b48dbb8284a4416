"""The key `cache` of `hybrid.yaml`, what it opens, and the metrics of what it saves."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.disk import DiskCache
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.caching.spec import DiskCacheSpec, MemoryCacheSpec
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.signals import FixedSensors
from hybrid_llm.router.spending.ledger import Price
from tests.fakes import FakeBackend

POLICY = "version: 1\nname: {name}\nrules: [{{prefer: [edge], because: there is no other}}]\n"


def parsed(cache: str, folder: Path = Path("/srv")):
    text = f"version: 1\nbackends: {{edge: {{kind: onnx, model: embedded}}}}\ncache: {cache}\n"
    return parse_config(text, folder / "hybrid.yaml").cache


def client(backend: FakeBackend, cache, name: str = "test", **options) -> HybridLLM:
    policy = parse_policy(POLICY.format(name=name), backends={"edge": Location.EDGE})
    return HybridLLM([backend], policy, sensors=FixedSensors(), cache=cache, **options)


def test_every_key_is_read_with_its_unit():
    assert parsed("{kind: disk, path: a.db, size: 256 MiB, max_age: 7d, key: {file: b.key}}") == DiskCacheSpec(
        path=Path("/srv/a.db"), size=256 * 2**20, max_age_s=7 * 86_400, key_file=Path("/srv/b.key")
    )
    assert parsed("{kind: memory, size: 2GiB, max_age: 90s}") == MemoryCacheSpec(size=2 * 2**30, max_age_s=90)


def test_without_a_path_the_files_are_in_the_folder_for_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    spec = parsed("{kind: disk}")
    assert (spec.file, spec.key) == (tmp_path / "hybrid-llm" / "answers.db", tmp_path / "hybrid-llm" / "answers.key")
    spec.open().close()
    assert (tmp_path / "hybrid-llm").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        ("{kind: disc}", "did you mean `disk`"),
        ("{kind: memory, path: a.db}", "path"),
        ("{kind: disk, size: 256}", "a size such as 256MiB"),
        ("{kind: disk, size: 12KiB}", "less than 1MiB"),
        ("{kind: disk, max_age: 7}", "a duration such as 7d"),
        ("{kind: disk, max_age: 0d}", "more than 0"),
        ("{}", "kind"),
    ],
)
def test_a_wrong_key_is_refused_with_what_it_must_be(cache, says):
    with pytest.raises(ConfigError, match=says):
        parsed(cache)


def test_a_client_of_a_file_caches_as_the_file_says(tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\ncache: {kind: memory}\n")
    with HybridLLM.from_config(path) as llm:
        assert [llm.generate("hi", temperature=0, max_tokens=2).cached for _ in range(2)] == [False, True]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_answer_of_another_model_or_policy_is_not_replayed(tmp_path, kind):
    backend = FakeBackend("edge", Location.EDGE)
    cache = MemoryCache() if kind == "memory" else DiskCache(tmp_path / "answers.db")
    with client(backend, cache) as llm:
        assert [llm.generate("hi").cached for _ in range(2)] == [False, True]
        for model, revision in (("other", ""), ("other", "2"), ("fake", "2")):
            backend.capabilities = Capabilities(model=model, context_window=1000, revision=revision)
            assert [llm.generate("hi").cached for _ in range(2)] == [False, True], (model, revision)
        if kind == "disk":
            with client(backend, DiskCache(tmp_path / "answers.db"), name="other") as second:
                assert [second.generate("hi").cached for _ in range(2)] == [False, True]


def test_what_hits_save_is_in_the_metrics():
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry=registry)
    price = Price(input_per_1k=1.0, output_per_1k=2.0, currency="USD")
    with client(FakeBackend("edge", Location.EDGE), MemoryCache(), prices={"edge": price}, hooks=[metrics]) as llm:
        for _ in range(3):
            llm.generate("hi")

        def read(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"hybrid_llm_cache_{name}_total", labels)

        assert [read("requests", outcome=outcome) for outcome in ("hit", "joined", "miss")] == [2, 0, 1]
        assert read("saved_tokens", gen_ai_token_type="input") == 6
        assert read("saved_tokens", gen_ai_token_type="output") == 2
        assert read("saved_spend", currency="USD") == pytest.approx(2 * 0.005)
        assert read("saved_seconds") >= 0


def test_a_memory_cache_is_bounded_by_its_bytes():
    backend = FakeBackend("edge", Location.EDGE, ["x" * 1000])
    with client(backend, MemoryCache(max_bytes=3500)) as llm:
        for text in "abcabc":
            llm.generate(text)
        assert len(backend.requests) == 6, "two of them fit"
        assert llm.generate("c").cached
        assert llm.generate("b").cached
    with pytest.raises(ConfigError):
        MemoryCache(max_bytes=0)
    backend = FakeBackend("edge", Location.EDGE, ["x" * 9000])
    with client(backend, MemoryCache(max_bytes=8000)) as llm:
        assert [llm.generate("a").cached for _ in range(2)] == [False, False]
