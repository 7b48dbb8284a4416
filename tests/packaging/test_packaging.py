"""Wheel, source distribution and editable install hold every file once, and other projects see all types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("router", "policies", "backends", "protos")
NOT_PACKED = shutil.ignore_patterns(
    ".git*", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", ".ci"
)
GENERATED = {"PKG-INFO", "setup.cfg"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout, links included, that a build may write into."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "it", symlinks=True, ignore=NOT_PACKED))


@pytest.fixture(scope="module")
def everything(checkout):
    """Every file, under the name that it has in a source distribution."""
    return {name for name in files_in(checkout) if name.split("/")[0] not in ROOMS}


@pytest.fixture(scope="module")
def sdist(checkout, everything, tmp_path_factory):
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(checkout, "sdist", folder)) as packed:
        packed.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def files_in(folder: Path) -> set[str]:
    """The names of all files below *folder*; links are followed."""
    return {
        (Path(inside, name)).relative_to(folder).as_posix()
        for inside, _, names in os.walk(folder, followlinks=True)
        for name in names
    }


def build(source: Path, kind: str, folder: Path) -> Path:
    """What `pip` asks of the build backend, without an environment of its own."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def package_files(wheel: Path) -> list[str]:
    return sorted(name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MYPY", "VIRTUAL_ENV"))}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_and_nothing_twice(checkout, everything, tmp_path):
    assert package_files(build(checkout, "wheel", tmp_path)) == sorted(
        name for name in everything if name.startswith("hybrid_llm/")
    )


def test_the_source_distribution_holds_every_file_the_tests_included(sdist, everything):
    packed = {name for name in files_in(sdist) if ".egg-info/" not in name} - GENERATED
    assert packed == everything
    assert {"tests/conftest.py", "tests/packaging/test_packaging.py", "hybrid_llm/router/client.py"} <= packed


def test_a_wheel_made_of_the_source_distribution_is_the_same(sdist, everything, tmp_path):
    wheel = build(sdist, "wheel", tmp_path)
    assert package_files(wheel) == sorted(name for name in everything if name.startswith("hybrid_llm/"))
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "import hybrid_llm, sys; print(hybrid_llm.HybridLLM.__module__, hybrid_llm.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["hybrid_llm.router.client", str(tmp_path / "installed/hybrid_llm/__init__.py")]


def test_a_checkout_without_links_says_what_to_do(checkout, tmp_path):
    for name in files_in(checkout / "hybrid_llm"):
        if name.split("/")[0] not in ROOMS:
            target = tmp_path / "hybrid_llm" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / "hybrid_llm" / name, target)
    for room in ROOMS:  # what git writes with core.symlinks=false
        (tmp_path / "hybrid_llm" / room).write_text(f"../{room}")
    for statement in ("import hybrid_llm", "from hybrid_llm.router.client import HybridLLM"):
        done = run(sys.executable, "-c", statement, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("ImportError: ")
        assert "run `git config core.symlinks true`, then `git checkout -- hybrid_llm`" in done.stderr


APP = """\
from pathlib import Path

import hybrid_llm
from hybrid_llm import HybridLLM, Stream
from hybrid_llm.errors import PolicyError
from hybrid_llm.router.signals import FixedSensors

reply: int = hybrid_llm.generate("hi").usage.completion_tokens
stream: Stream = HybridLLM([], hybrid_llm.load_policy(Path("p")), sensors=FixedSensors()).stream("hi", max_tokens=3)
wrong: int = hybrid_llm.generate("hi").text
from hybrid_llm import HybridLM
hybrid_llm.generat("hi")
"""
WRONG_LINES = [10, 11, 12]


@pytest.fixture(scope="module")
def project(checkout, tmp_path_factory):
    """Another project, with an environment that holds an editable install and nothing else."""
    folder = tmp_path_factory.mktemp("project")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    zipfile.ZipFile(build(checkout, "editable", folder)).extractall(packages)
    (folder / "app.py").write_text(APP)
    return folder


def errors(output: str) -> list[int]:
    """The lines of `app.py` that a type checker finds fault with."""
    return [int(line.split("app.py:")[1].split(":")[0]) for line in output.splitlines() if " error: " in line]


def test_mypy_sees_the_types_of_an_editable_install_in_another_project(project):
    python = project / "venv" / "bin" / "python"
    done = run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "app.py", cwd=project)
    assert errors(done.stdout) == WRONG_LINES, done.stdout + done.stderr
    assert 'Module "hybrid_llm" has no attribute "HybridLM"' in done.stdout


def test_pyright_sees_the_types_of_an_editable_install_in_another_project(project):
    pyright = shutil.which("pyright", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if pyright is None:
        pytest.skip("pyright is not installed: npm install -g pyright")
    done = run(pyright, "--pythonpath", project / "venv" / "bin" / "python", "app.py", cwd=project)
    assert errors(done.stdout.replace(" - error:", " error:")) == WRONG_LINES, done.stdout + done.stderr
    assert '"HybridLM" is unknown import symbol' in done.stdout
