"""What the README shows is true: its first minute runs as printed, its figures are those of the benchmarks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.cli.demo.scenes import SCENES
from hybrid_llm.cli.main import main
from hybrid_llm.policies import builtin_policy
from tests.cli.test_main import PAGES as COMMANDS
from tests.e2e.documents import PAGES, ROOT, Block, blocks_of
from tests.gateway.conftest import fakes, served

README = blocks_of(ROOT / "README.md")
PYTHON = [block for block in README if block.language == "python" and "hybrid_llm" in block.text]


def write(folder: Path, start: str, name: str) -> Path:
    """Write the block that begins with *start* into the folder."""
    path = folder / name
    path.write_text(next(block.text for block in README if block.text.startswith(start)))
    return path


def run(block: Block, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", block.text], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_minute_runs_as_printed_on_the_device_alone(tmp_path):
    write(tmp_path, "# policy.yaml", "policy.yaml")
    write(tmp_path, "# hybrid.yaml: paths", "hybrid.yaml")
    assert len(PYTHON[0].text.splitlines()) <= 10
    out = run(PYTHON[0], tmp_path)
    assert re.search(r"\(edge, first token after \d+ ms\)", out)
    assert "tags: phi\norder: edge " in out


def test_the_two_examples_that_come_first_are_five_lines_and_run_together(tmp_path):
    """The client asks a gateway whose cloud is a server that speaks OpenAI's API: here another gateway."""
    client, cloud = README[0], README[1]
    assert (client.language, len(client.text.strip().splitlines())) == ("python", 5)
    assert (cloud.language, len(cloud.text.strip().splitlines()) - 1) == ("yaml", 5)
    _, other = fakes(["forty-two"])
    with served(HybridLLM([other], builtin_policy("balanced", backends={"cloud": other.location}))) as server:
        path = tmp_path / "hybrid.yaml"
        path.write_text(cloud.text.replace("http://127.0.0.1:11434", server).replace("default", "embedded"))
        with served(HybridLLM.from_config(path)) as url:
            run_with = client.text.replace("http://127.0.0.1:8080", url).replace('"auto"', '"cloud"')
            assert run(replace(client, text=run_with), tmp_path).split()[0] == "forty-two"
            assert run(replace(client, text=client.text.replace("http://127.0.0.1:8080", url)), tmp_path).strip()


@pytest.fixture
def folder(tmp_path, node) -> Path:
    """A folder as the README describes it once a node runs, with this node's port."""
    write(tmp_path, "# policy.yaml", "policy.yaml")
    config = write(tmp_path, "# hybrid.yaml with a node", "hybrid.yaml")
    config.write_text(config.read_text().replace("7443", str(node.port)))
    shutil.copytree(node.tls, tmp_path / "tls")
    return tmp_path


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_the_python_of_the_readme_runs_beside_a_node(folder, block):
    assert run(block, folder).strip()


def test_the_explanation_that_the_readme_suggests_finds_the_phone_number(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["policy", "explain", "policy.yaml", "Call Jane at +1 202 555 0147."]) == 0
    assert "pii" in capsys.readouterr().out


def test_the_table_of_the_readme_is_that_of_the_demonstration_and_fits_a_terminal():
    (table,) = [block.text for block in README if block.text.startswith("request ")]
    titles = [line[:17].rstrip() for line in table.splitlines()[2:]]
    assert titles == [scene.title for scene in SCENES]
    assert all(line.endswith("ok") for line in table.splitlines()[2:])
    assert max(map(len, table.splitlines())) <= 120


def rows(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table under *heading*, without its head."""
    (section,) = re.findall(
        rf"^## {heading}$(.*?)(?=^## |\Z)", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_figures_of_the_readme_are_those_of_the_benchmarks_which_name_commit_and_date():
    summary = rows("docs/benchmarks.md", "Summary")
    assert [row[:3] for row in summary] == rows("README.md", "Figures")
    assert all(re.fullmatch(r"`[0-9a-f]{7}`, 2026-\d\d-\d\d", row[3].strip()) for row in summary)


def test_every_figure_of_the_summary_stands_in_the_details_too():
    _, details = (ROOT / "docs" / "benchmarks.md").read_text("utf-8").split("## Summary")[1].split("\n## ", 1)
    for name, ours, beside, _ in rows("docs/benchmarks.md", "Summary"):
        for figure in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.-])", f"{ours} {beside}"):
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", details), f"{name}: {figure}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_and_heading_that_is_linked_is_there():
    for page in PAGES:
        for link, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}#{anchor}"


def test_every_page_of_the_documentation_is_in_the_table_of_the_readme():
    _, table = (ROOT / "README.md").read_text("utf-8").split("\n## Documentation\n")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\]\(docs/([\w.]+)\)", table)) == set()


PATH = re.compile(r"`((?:hybrid_llm|router|policies|backends|protos|tests|examples|deploy)/[\w./-]*\w/?)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_this_repository_that_a_page_names_is_there(page):
    named = PATH.findall(page.read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_benchmark_that_a_page_names_is_there():
    named = {name for page in PAGES for name in re.findall(r"python -m benchmarks (\w+)", page.read_text("utf-8"))}
    headings = re.findall(r"^## .*\((`.*`)\)$", (ROOT / "docs" / "benchmarks.md").read_text("utf-8"), re.MULTILINE)
    named |= {name for heading in headings for name in re.findall(r"`(\w+)`", heading)} - {"make"}
    assert "decide" in named
    assert [name for name in named if name != "NAME" and not (ROOT / "benchmarks" / f"{name}.py").exists()] == []


def test_every_command_within_a_sentence_is_one_that_there_is():
    """`hybrid-llm policy list`, `policy check`: the words after the name are sub-commands, up to the first argument."""
    known = {" ".join(page) for page in COMMANDS}
    for page in PAGES:
        for said in re.findall(r"`hybrid-llm ([a-z]+(?: [a-z]+)?)", page.read_text("utf-8")):
            assert said in known or said.split()[0] in known, f"{page.name}: hybrid-llm {said}"
        for said in re.findall(r"`((?:policy|models|certs|rights|audit) [a-z]+(?:-[a-z]+)*)", page.read_text("utf-8")):
            assert said in known, f"{page.name}: {said}"


def test_the_installed_sizes_of_the_readme_are_those_of_the_benchmarks():
    _, install = (ROOT / "README.md").read_text("utf-8").split("\n## Install\n")
    sizes = re.findall(r"\d[\d.]* [MG]B", install.split("\n## ")[0])
    figures = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert len(sizes) == 4
    assert [size for size in sizes if size not in figures] == []
