"""Every example runs as its first line says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_a_script_runs(name):
    done = run(EXAMPLES / name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_detector_of_the_app_sets_its_tag():
    assert "tags ['internal']" in run(EXAMPLES / "own_detector.py").stdout


def test_the_clinic_keeps_a_patient_on_the_device_and_sends_the_rest_where_it_fits(node, tmp_path):
    folder = tmp_path / "clinic"
    shutil.copytree(EXAMPLES / "clinic", folder)
    shutil.copytree(node.tls, folder / "tls")
    config = folder / "hybrid.yaml"
    config.write_text(config.read_text().replace("7443", str(node.port)))
    private, public = run(folder / "ask.py"), run(folder / "ask.py", "word " * 500 + "Is it long?")
    assert "order: edge " in private.stdout, private.stderr
    assert "tag phi allows only edge" in private.stdout
    assert "order: cloud " in public.stdout, public.stderr


def test_an_example_without_its_certificates_says_what_is_missing():
    done = run(EXAMPLES / "clinic" / "ask.py")
    assert done.returncode == 1
    assert "does not exist; make certificates" in done.stderr
