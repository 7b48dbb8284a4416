"""Writes the code generated from `*.proto`, or checks that what is checked in is what the compiler writes.

    python -m tests.checks.protos [--check]

Generated code refuses any grpcio older than the compiler that wrote it, so the compiler is the oldest that is
supported. It wants an older protobuf than the one in use: it lives in a folder of its own, beside the interpreter's
packages in a virtual environment (fetched from PyPI once), else in a temporary one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["generate", "main", "stale"]

REQUIREMENTS = ("grpcio-tools==1.76.0", "grpcio==1.76.0", "protobuf==6.33.1", "setuptools==80.9.0")
"""The oldest versions that pyproject.toml allows; change both together."""

_HERE = Path(__file__).resolve().parents[2] / "protos"
_PACKAGE = "hybrid_llm/protos"


@contextmanager
def _compiler() -> Iterator[Path]:
    """Yield a folder that holds the pinned compiler."""
    name = "protoc-" + "-".join(requirement.partition("==")[2] for requirement in REQUIREMENTS)
    if sys.prefix != sys.base_prefix:
        folder = Path(sys.prefix) / name
        if not folder.is_dir():
            _install(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        _install(folder)
        yield folder


def _install(folder: Path) -> None:
    """Put the compiler into *folder*, which appears complete or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "packages"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--only-binary", ":all:"]
        subprocess.run([*pip, "--target", str(target), *REQUIREMENTS], check=True)
        target.rename(folder)


def generate(out: Path) -> list[Path]:
    """Write the code for every `.proto` beside this module into *out*; returns the paths written.

    Raises:
        subprocess.CalledProcessError: the compiler could not be fetched, or refuses a file.
    """
    protos = sorted(path.name for path in _HERE.glob("*.proto"))
    with _compiler() as folder, tempfile.TemporaryDirectory() as temporary:
        flags = [f"--{kind}_out={temporary}" for kind in ("python", "pyi", "grpc_python")]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_PACKAGE}={_HERE}", *flags]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        # Run elsewhere: the working directory comes first on the path.
        subprocess.run(
            [*command, *(f"{_PACKAGE}/{name}" for name in protos)], check=True, env=environment, cwd=temporary
        )
        written = sorted((Path(temporary) / _PACKAGE).iterdir())
        return [_copy(path, out) for path in written if _has_code(path)]


def _has_code(path: Path) -> bool:
    """Whether *path* holds anything: a file without a service has an empty `_pb2_grpc.py`."""
    return not path.name.endswith("_pb2_grpc.py") or "class " in path.read_text("utf-8")


def _copy(path: Path, out: Path) -> Path:
    target = out / path.name
    target.write_bytes(path.read_bytes())
    return target


def stale(folder: Path = _HERE) -> list[str]:
    """Names of the files in *folder* that are missing or differ from what the compiler writes now."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = generate(Path(temporary))
        return [path.name for path in fresh if _read(folder / path.name) != path.read_bytes()]


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def main(argv: list[str] | None = None) -> int:
    """Generate, or with `--check` compare; the exit code is 1 when something is stale."""
    parser = argparse.ArgumentParser(prog="python -m tests.checks.protos", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the checked-in code is stale")
    if not parser.parse_args(argv).check:
        written = generate(_HERE)
        sys.stdout.write("".join(f"wrote {path.name}\n" for path in written))
        return 0
    names = stale()
    sys.stdout.write("".join(f"stale: {name}; run python -m tests.checks.protos\n" for name in names))
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
