"""`hybrid-llm cache`: show what the cache of answers on disk holds and has saved, and clear it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, Group, add_json, read_config
from hybrid_llm.cli.terminal import Exit, note, print_json, table
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.savings import UNIT, Savings
from hybrid_llm.router.caching.spec import DiskCacheSpec

if TYPE_CHECKING:
    from hybrid_llm.router.caching.database import FileStatus
    from hybrid_llm.router.caching.disk import DiskCache

_CODES: Final = (Exit.FAILURE, Exit.CONFIG)

CACHE: Final = Group(
    about="Show what the cache of answers on disk holds and has saved, and clear it.",
    commands={
        "stats": ("hybrid_llm.cli.cache:STATS", "show how many answers are cached, and what that saved"),
        "clear": ("hybrid_llm.cli.cache:CLEAR", "remove every answer"),
    },
    examples=("hybrid-llm cache stats --config hybrid.yaml", "hybrid-llm cache clear --config hybrid.yaml"),
    codes=_CODES,
)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the hybrid.yaml whose `cache` is of kind disk; default: the file in HYBRID_LLM_CONFIG",
    )


def _open(args: argparse.Namespace) -> DiskCache:
    from hybrid_llm.router.caching.disk import DiskCache

    config = read_config(args.config)
    if config is None:
        raise ConfigError("no cache: give --config hybrid.yaml with `cache: {kind: disk}`")
    spec = config.cache
    if not isinstance(spec, DiskCacheSpec):
        kept = "names no cache" if spec is None else "has a cache in memory, which ends with its process"
        raise ConfigError(f"{config.name} {kept}: write `cache: {{kind: disk}}` for one on disk", path=config.name)
    if not spec.file.exists():
        raise ConfigError(f"{spec.file} does not exist: no answer has been cached yet", path=str(spec.file))
    opened = spec.open()
    assert isinstance(opened, DiskCache)
    return opened


def _stats_options(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    add_json(parser)


def _stats(args: argparse.Namespace) -> int:
    with closing(_open(args)) as cache:
        status = cache.status()
    if args.json:
        print_json(_record(status))
        return Exit.OK
    table(("what", "value"), list(_rows(status)), numbers={"value"})
    return Exit.OK


def _rows(status: FileStatus) -> Iterator[tuple[str, str]]:
    yield "answers", str(status.entries)
    yield "size", f"{status.bytes / 2**20:.1f} MiB"
    if status.oldest is not None:
        yield "oldest", f"{datetime.fromtimestamp(status.oldest, UTC):%Y-%m-%d %H:%M} UTC"
    total = sum(status.savings.values(), Savings())
    yield "hits", str(total.hits)
    yield "joined in flight", str(total.joined)
    yield "misses", str(total.misses - total.joined)
    yield "hit ratio", f"{total.hit_ratio:.1%}"
    yield "saved prompt tokens", str(total.prompt_tokens)
    yield "saved answer tokens", str(total.completion_tokens)
    yield "saved seconds", f"{total.ms / 1e3:.1f}"
    for currency, savings in status.savings.items():
        if savings.spend:
            yield f"saved {currency}".rstrip(), f"{savings.spend / UNIT:.6f}"


def _record(status: FileStatus) -> dict[str, object]:
    total = sum(status.savings.values(), Savings())
    return {
        "answers": status.entries,
        "bytes": status.bytes,
        "oldest": status.oldest,
        "hits": total.hits,
        "joined": total.joined,
        "misses": total.misses - total.joined,
        "hit_ratio": total.hit_ratio,
        "saved": {
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "seconds": total.ms / 1e3,
            "spend": {currency: one.spend / UNIT for currency, one in status.savings.items() if one.spend},
        },
    }


STATS: Final = Command(
    about="Show how many answers are cached on disk, how old the oldest is, and what they saved since the file was\n"
    "created. Counts of a process that runs are added when it stores its next answer.",
    options=_stats_options,
    run=_stats,
    examples=("hybrid-llm cache stats --config hybrid.yaml", "hybrid-llm cache stats --config hybrid.yaml --json"),
    codes=_CODES,
)


def _clear(args: argparse.Namespace) -> int:
    with closing(_open(args)) as cache:
        count = cache.clear()
    note(f"removed {count} answer{'' if count == 1 else 's'}")
    return Exit.OK


CLEAR: Final = Command(
    about="Remove every answer from the cache on disk, and its counts. Processes that use it may go on.",
    options=_add_config,
    run=_clear,
    examples=("hybrid-llm cache clear --config hybrid.yaml",),
    codes=_CODES,
)
