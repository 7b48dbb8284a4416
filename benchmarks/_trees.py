"""Text in which there is little to find: source trees that pip fetches, generated logs and data, and prose.

Trees and generators have a half to tune on and a held-out half; the files of `SPLIT` are divided by a checksum of their
names, since detectors were tuned on what was found in one half of them. `is_plausible` judges a find by rules of its own, which
look at the text around it: an address at a real top-level domain is an address, whoever's it is; a quoted literal after
*password* is a password, also in a test. What it rejects is a false find. Its rules are coarse on purpose and shared by
both halves; `--show` prints what it rejects, so that it can be judged as well.
"""

# ruff: noqa: E501  (lines of logs)
from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zlib import crc32

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hybrid-llm-benchmarks"
TUNING = ("flask==3.1.3", "httpx==0.28.1", "llm==0.36", "requests==2.34.2", "transformers==4.57.1", "fastapi==0.165.0")
SPLIT = ("django==5.2.19", "aiohttp==3.14.5", "sqlalchemy==2.1.9", "celery==5.7.0", "rich==15.0.0", "scrapy==2.19.0")
"""Held out whole until 2026-11-30."""
_KINDS = {
    "code": {".py", ".pyi", ".pyx", ".js", ".ts", ".css", ".html", ".c", ".h", ".sh", ".sql", ".po", ".ipynb"},
    "documents": {".md", ".rst", ".txt"},
    "data and settings": {".json", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv", ".svg", ".xml", ".lock", ".jsonl"},
}
_LARGEST = 1 << 18
"""Bytes of a file that are read; few people paste more."""


@dataclass(frozen=True, slots=True)
class File:
    """One text, and whether detectors may be tuned on it."""

    group: str
    name: str
    text: str
    tuning: bool


def fetch(requirement: str) -> Path | None:
    """The source distribution of *requirement*, from the cache or from the package index; None offline."""
    name, _, version = requirement.partition("==")
    held = sorted(CACHE.glob(f"{name}-{version}.*"))
    if held:
        return held[0]
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", str(CACHE)]
    done = subprocess.run([*command, requirement], check=False, capture_output=True, text=True, timeout=300)
    held = sorted(CACHE.glob(f"{name}-{version}.*"))
    if done.returncode or not held:
        print(f"{requirement} could not be fetched (offline?) and is left out")
        return None
    return held[0]


def tree(requirement: str, limit: int | None = None) -> Iterator[File]:
    """The text files of one source distribution."""
    archive = fetch(requirement)
    if archive is None:
        return
    with tarfile.open(archive) as packed:
        members = [member for member in packed.getmembers() if member.isfile() and _group(member.name)]
        for member in members[:limit]:
            data = packed.extractfile(member)
            if data is not None:
                text = data.read(_LARGEST).decode("utf-8", errors="ignore")
                tuning = requirement in TUNING or crc32(member.name.encode()) % 2 == 0
                yield File(_group(member.name), member.name, text, tuning)


def _group(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return next((group for group, suffixes in _KINDS.items() if suffix in suffixes), "")


def files(data: Path, *, smoke: bool) -> Iterator[File]:
    """Everything."""
    for requirement in TUNING[:1] if smoke else (*TUNING, *SPLIT):
        yield from tree(requirement, 20 if smoke else None)
    for tuning in (True, False):
        yield from generated(5 if smoke else 300, tuning=tuning)
    yield from prose(data, 1 << 16 if smoke else 1 << 21)


def prose(data: Path, limit: int) -> Iterator[File]:
    """Prose in files of 100 lines."""
    from benchmarks.detectors import read_text

    for name, tuning in (
        ("state_union", True),
        ("sentence_polarity", True),
        ("inaugural", False),
        ("shakespeare", False),
    ):
        if (data / "text" / f"{name}.zip").exists():
            lines = read_text(data / "text" / f"{name}.zip", limit).splitlines()
            for start in range(0, len(lines), 100):
                yield File("prose", f"{name}:{start + 1}", "\n".join(lines[start : start + 100]), tuning)


def generated(count: int, *, tuning: bool) -> Iterator[File]:
    """Logs and data without anything personal: *count* files of 50 lines, of each of the forms of one half."""
    rng = random.Random(f"generated {tuning}")
    forms = _TUNING_LINES if tuning else _HELD_OUT_LINES
    for number in range(count):
        for name, line in forms.items():
            text = "\n".join(line(rng) for _ in range(50))
            yield File("logs and generated data", f"{name} {number}", text, tuning)


def _hex(rng: random.Random, length: int) -> str:
    return f"{rng.getrandbits(4 * length):0{length}x}"


def _stamp(rng: random.Random) -> str:
    return f"2025-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}T{rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}"


_MODULES = ("app.views", "worker.pool", "db.session", "http.client", "cache.redis", "message.queue", "text.index")


def _python_log(rng: random.Random) -> str:
    text = rng.choice(
        [
            f"request {_hex(rng, 32)} took {rng.random() * 900:.3f} ms, {rng.randrange(10**7)} bytes",
            f"message {rng.randrange(1_600_000_000, 1_800_000_000)} text={rng.randrange(10**9)} size={rng.randrange(10**6)}",
            f"tokens: {rng.randrange(10**5)} prompt, {rng.randrange(10**4)} completion, eos_token={rng.randrange(10**5)}",
            f"connection pool is full, discarding connection: {rng.randrange(10, 99)}. Connection pool size: 10",
            f"tests pass: {rng.randrange(10**5, 10**6)} in {rng.randrange(100, 9999)}.{rng.randrange(99):02d}s",
            f"retry {rng.randrange(9)} of job {rng.randrange(10**8, 10**10)} at {rng.randrange(10**9, 2 * 10**9)}.{rng.randrange(10**6)}",
        ]
    )
    return f"{_stamp(rng)},{rng.randrange(1000):03d} {rng.choice(['INFO', 'DEBUG', 'ERROR'])} [{rng.randrange(9999)}] {rng.choice(_MODULES)}: {text}"


def _json_line(rng: random.Random) -> str:
    return json.dumps(
        {
            "id": rng.randrange(10**12),
            "ts": rng.randrange(1_600_000_000_000, 1_800_000_000_000),
            "trace": _hex(rng, 32),
            "message": f"moved {rng.randrange(10**9, 10**10)} rows",
            "score": rng.random(),
            "shape": [rng.choice([64, 128, 256, 512, 1024]) for _ in range(4)],
            "version": f"{rng.randrange(9)}.{rng.randrange(40)}.{rng.randrange(40)}.{rng.randrange(400)}",
        }
    )


def _table(rng: random.Random) -> str:
    return ",".join([str(rng.randrange(10 ** rng.randint(1, 12))), *(f"{rng.random() * 1000:.4f}" for _ in range(4))])


def _program(rng: random.Random) -> str:
    name = rng.choice(["scores", "weights", "hidden", "logits", "out"])
    return rng.choice(
        [
            f"    {name} = q @ k.mT / {rng.randrange(9)}.0",
            f"    token = tokenizer.convert_ids({rng.randrange(10**5)})",
            "    password = getpass.getpass('Password: ')",
            f"    assert {name}.shape == ({rng.randrange(99)}, {rng.choice([256, 512, 1024])}, {rng.choice([256, 512, 1024])})",
            "    secret_key = os.environ['SECRET_KEY']",
            f"    expected = [{', '.join(str(rng.randrange(100, 1000)) for _ in range(9))}]",
            f"    seed, spin = {rng.randrange(10**6)}, {rng.randrange(10**4)}",
        ]
    )


def _access_log(rng: random.Random) -> str:
    return f'[{_stamp(rng)}] "GET /items/{rng.randrange(10**9)}?page={rng.randrange(99)}&etag={_hex(rng, 16)} HTTP/1.1" {rng.choice([200, 304, 404])} {rng.randrange(10**6)} "-" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/{rng.randrange(100, 140)}.0.{rng.randrange(9999)}.{rng.randrange(200)}"'


def _kernel_log(rng: random.Random) -> str:
    return f"[{rng.randrange(10**6):6d}.{rng.randrange(10**6):06d}] {rng.choice(['usb 1-2', 'eth0', 'nvme0n1', 'driver pcieport'])}: {rng.choice(['reset', 'read', 'firmware'])} {rng.randrange(10**9)} at 0x{_hex(rng, 16)}, code {rng.randrange(10**7)} build {rng.randrange(9)}.{rng.randrange(99)}.{rng.randrange(99)}-{rng.randrange(999)}"


def _lock_file(rng: random.Random) -> str:
    return f'    "node_modules/pkg-{rng.randrange(999)}": {{"version": "{rng.randrange(9)}.{rng.randrange(99)}.{rng.randrange(99)}", "integrity": "sha256:{_hex(rng, 64)}", "size": {rng.randrange(10**7)}}},'


def _metrics(rng: random.Random) -> str:
    return f'http_requests_total{{code="{rng.choice([200, 500])}",handler="message",le="{rng.random():.3f}"}} {rng.randrange(10**10)} {rng.randrange(1_600_000_000_000, 1_800_000_000_000)}'


def _drawing(rng: random.Random) -> str:
    points = " ".join(f"{rng.random() * 90:.2f} {rng.random() * 90:.2f}" for _ in range(4))
    return f'<path d="M{rng.randrange(90)} {rng.randrange(90)}.{rng.randrange(99)}.{rng.randrange(99)}.{rng.randrange(99)} L{points} z"/>'


_TUNING_LINES = {"log of Python": _python_log, "JSON": _json_line, "CSV": _table, "program": _program}
_HELD_OUT_LINES = {
    "access log": _access_log,
    "kernel log": _kernel_log,
    "lock file": _lock_file,
    "metrics": _metrics,
    "drawing": _drawing,
}
