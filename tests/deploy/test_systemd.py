"""The units of systemd: checked by systemd itself, with a bound on what a service may do; their commands parse."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm.cli.main import build_parser
from hybrid_llm.cli.terminal import Exit

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/hybrid-llm/bin/hybrid-llm"
EVERY = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
MOST_EXPOSED = 1.5
"""Of 10, as `systemd-analyze security` counts; a unit without any setting has 9.6."""


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text("utf-8"), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@needs("systemd-analyze")
@EVERY
def test_systemd_takes_every_line(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text("utf-8").replace(PROGRAM, sys.executable)
    (tmp_path / unit.name).write_text(text, encoding="utf-8")
    drop_in = tmp_path / f"{unit.name}.d"
    drop_in.mkdir()
    shutil.copy(FOLDER / "gpu.conf", drop_in)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if unit.stem.partition("@")[0] in line or str(tmp_path) in line]
    assert (done.returncode, ours) == (0, [])


@needs("systemd-analyze")
def test_systemd_finds_a_setting_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    path.write_text(f"[Service]\nExecStart={sys.executable}\nProtectSytem=strict\n", encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert "ProtectSytem" in done.stderr


@needs("systemd-analyze")
@EVERY
def test_a_service_is_exposed_to_little(unit: Path, tmp_path: Path) -> None:
    shutil.copy(unit, tmp_path)
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / unit.name)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


@EVERY
def test_the_command_of_a_unit_parses(unit: Path) -> None:
    found = settings(unit)
    variables = dict(word.partition("=")[::2] for word in found["Environment"][0].split())
    command = found["ExecStart"][0].replace("%i", "smollm2")
    command = re.sub(r"\$\{?(\w+)\}?", lambda name: variables[name[1]].replace("%i", "smollm2"), command)
    program, *words = shlex.split(command)
    args = build_parser(words).parse_args(words)
    assert program == PROGRAM
    grace = args.grace or 10.0
    assert float(found["TimeoutStopSec"][0]) > grace
    assert Path(args.ready_file).is_relative_to(f"/run/{found['RuntimeDirectory'][0]}")


@EVERY
def test_a_failure_that_another_start_does_not_mend_is_not_repeated(unit: Path) -> None:
    codes = {Exit(int(code)) for code in settings(unit)["RestartPreventExitStatus"][0].split()}
    assert codes == {Exit.USAGE, Exit.CONFIG, Exit.SECURITY}


@needs("systemd-sysusers")
@needs("systemd-tmpfiles")
def test_the_user_and_its_folders_are_made(tmp_path: Path) -> None:
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root makes users and folders of others")
    (tmp_path / "etc" / "hybrid-llm" / "tls").mkdir(parents=True)
    (tmp_path / "etc" / "hybrid-llm" / "tls" / "node.key").write_text("secret")
    root = f"--root={tmp_path}"
    subprocess.run(["systemd-sysusers", root, str(FOLDER / "hybrid-llm.sysusers.conf")], check=True)
    subprocess.run(["systemd-tmpfiles", root, "--create", str(FOLDER / "hybrid-llm.tmpfiles.conf")], check=True)
    user = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("hybrid-llm:"))
    _, _, uid, gid, *_, shell = user.split(":")
    assert shell == "/usr/sbin/nologin"
    key, state = tmp_path / "etc/hybrid-llm/tls/node.key", tmp_path / "var/lib/hybrid-llm/models"
    assert (key.stat().st_uid, key.stat().st_gid, stat.S_IMODE(key.stat().st_mode)) == (0, int(gid), 0o640)
    assert (state.stat().st_uid, stat.S_IMODE(state.stat().st_mode)) == (int(uid), 0o750)
