"""What `hybrid-llm doctor` checks of a cache of answers on disk: who can read it, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_llm.cli.doctor_checks import Setup
from hybrid_llm.cli.findings import Finding, fault, ok, warning
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.caching.spec import DiskCacheSpec


def check_cache(setup: Setup) -> Iterator[Finding]:
    """The key and the file of the cache. What does not exist yet is not created."""
    from hybrid_llm.router.caching.disk import DiskCache
    from hybrid_llm.router.caching.sealing import unsafe_mode

    spec = setup.config.cache if setup.config is not None else None
    if not isinstance(spec, DiskCacheSpec):
        return
    if spec.key.exists() and (problem := unsafe_mode(spec.key)):
        yield fault("cache", problem, f"chmod 600 {spec.key}")
        return
    if not spec.file.exists():
        yield ok("cache", f"{spec.file} does not exist yet: the first client creates it")
        return
    if problem := unsafe_mode(spec.file):
        yield warning("cache", f"{problem}: they see sizes and times, no text", f"chmod 600 {spec.file}")
    cache = spec.open()
    assert isinstance(cache, DiskCache)
    try:
        status = cache.status()
        yield ok("cache", f"{spec.file}: {status.entries} answers, {status.bytes / 2**20:.1f} MiB, encrypted")
    except ConfigError as error:
        yield fault("cache", str(error), f"make it readable and writable, or delete it: rm {spec.file}")
    finally:
        cache.close()
