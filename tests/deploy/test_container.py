"""The container files agree with the project and the command line; `container/build-check` builds and runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from hybrid_llm.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "container"
FILES = sorted(FOLDER.glob("*.Containerfile"))
EVERY = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
SCRIPTS = [FOLDER / "build-check", FOLDER / "managed", FOLDER / "slim", ROOT / "deploy" / "compose" / "certificates.sh"]


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction with its words, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", file.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def values(file: Path, name: str) -> list[str]:
    return [rest for word, rest in instructions(file) if word == name]


@EVERY
def test_every_command_and_health_check_parses(file: Path) -> None:
    commands = [json.loads(each) for each in values(file, "CMD")]
    checks = [json.loads(each.partition("CMD ")[2]) for each in values(file, "HEALTHCHECK")]
    assert commands
    assert checks
    words = [words for words in commands if words] + [words[1:] for words in checks if words[0] == "hybrid-llm"]
    for each in words:
        assert callable(build_parser(each).parse_args(each).run)


@EVERY
def test_the_image_is_not_root_and_copies_what_there_is(file: Path) -> None:
    names = [word for word, _ in instructions(file)]
    assert values(file, "USER") == ["65532:65532"]
    assert "USER" not in names[: names.index("FROM")]
    assert names.index("USER") < names.index("ENTRYPOINT")
    ignored = file.with_name(f"{file.name}.dockerignore").read_text("utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    sources = [word for rest in values(file, "COPY") if "--from" not in rest for word in rest.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists()
        assert any(source == one or source.startswith(f"{one}/") for one in allowed)
    assert {"hybrid_llm", "router", "policies", "backends", "protos"} <= set(sources)


@EVERY
def test_versions_and_extras_are_those_of_the_project(file: Path) -> None:
    arguments = dict(each.partition("=")[::2] for each in values(file, "ARG"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(arguments["EXTRAS"].split(",")) <= set(project["optional-dependencies"])
    if "TORCH" in arguments:
        assert f"TORCH  := {arguments['TORCH']}\n" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses(script: Path) -> None:
    shell = "bash" if "bash" in script.read_text("utf-8").splitlines()[0] else "sh"
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
