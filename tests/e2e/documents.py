"""The fenced blocks of every page, the commands in them, and a folder in which those commands can be run as printed."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.core.rights.counters import DatabaseCounters
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import run_recipe
from hybrid_llm.router.observability.recorder import DecisionRecorder

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
PAGES.remove(ROOT / "docs" / "extending.md")  # tests/extending makes files of its blocks and runs them
PROGRAMS = ("hybrid-llm", "make", "pip", "python", "hf", "curl")


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, the line of its fence, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """How a test of this block is called."""
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        """What names the block in the tables of exceptions."""
        return self.text.splitlines()[0].strip()

    @property
    def commands(self) -> list[str]:
        """The command lines, comments cut off; none where a line is no command."""
        whole = re.sub(r" *\\\n *", " ", self.text)
        lines = [line.split(" #")[0].strip() for line in whole.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        return lines if all(line.split()[0] in PROGRAMS for line in lines) else []


def blocks_of(path: Path) -> list[Block]:
    """The fenced blocks of one page."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(str(path.relative_to(ROOT)), text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    ]


def is_of_clients(block: Block) -> bool:
    """Whether it is Python of a library that is in the environment of `make clients` alone; tests/clients runs it."""
    return block.language == "python" and block.page == "docs/integrations.md"


BLOCKS = [block for page in sorted(PAGES) for block in blocks_of(page)]


def policy_files(folder: Path) -> None:
    """The policies and cases that commands name."""
    clinic = ROOT / "examples" / "clinic"
    policy = (clinic / "policy.yaml").read_text("utf-8")
    (folder / "clinic.yaml").write_text(policy)
    (folder / "clinic-new.yaml").write_text(policy.replace("prefer: [edge, cloud]", "prefer: [cloud, edge]"))
    (folder / "fleet.yaml").write_text("version: 1\nname: fleet\nrules: [{prefer: [phone, eu]}]\n")
    (folder / "cases").mkdir()
    for name in ("clinic.test.yaml", "cases/nights.yaml", "cases/days.yaml"):
        shutil.copy(clinic / "policy.test.yaml", folder / name)
    shutil.copytree(ROOT / "policies" / "builtin", folder / "policies", ignore=shutil.ignore_patterns("*.test.yaml"))


def suite_files(folder: Path) -> None:
    """A suite of one small task."""
    (folder / "suite.yaml").write_text(
        "version: 1\nname: small\ntasks: {reviews: {kind: classify, data: small.csv, labels: [negative, positive]}}\n"
    )
    (folder / "small.csv").write_text("text,label\nA warm film.,positive\nA dull film.,negative\n")


def input_files(folder: Path) -> None:
    """A prompt, a schema, two public traces in small, and a model's folder."""
    (folder / "note.txt").write_text("Is this review positive? 'A small gem.'")
    (folder / "person.json").write_text(
        '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}}'
    )
    rows = [f"2023-11-16 18:{minute:02}:00.0000000,200,20" for minute in range(60)]
    with gzip.open(folder / "AzureLLMInferenceTrace_conv.csv.gz", "wt") as out:
        out.write("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    with tarfile.open(folder / "NetLatency-Seattle.tar.xz", "w:xz") as archive:
        text = b"0\t0.03\n0.03\t0\n"
        member = tarfile.TarInfo("Seattle/SeattleData_1")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    for name in ("models/qwen", "qwen-edge"):
        shutil.copytree(ROOT / "backends/edge/models/hybrid-demo-edge", folder / name)


def rights_files(folder: Path) -> None:
    """The rights file as its page has it, and an empty file of quotas."""
    texts = {block.first_line: block.text for block in blocks_of(ROOT / "docs" / "rights.md")}
    (folder / "rights.yaml").write_text(texts["# rights.yaml"])
    DatabaseCounters(folder / "quotas.db").close()


def recipe_files(folder: Path) -> None:
    """A recipe, what it has made, and reviews with labels."""
    rows = [f"review {word} of the film,{('bad', 'good')[at % 2]}" for at, word in enumerate("abcdefghijklmnopqrst")]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    text = "version: 1\nname: sentiment\nsteps:\n  base: {kind: fetch, source: ./qwen-edge}\n"
    (folder / "recipe.yaml").write_text(text)
    run_recipe(read_recipe(folder / "recipe.yaml"), folder / "models" / "sentiment")


def make_folder(folder: Path, port: int, tls: Path) -> Path:
    """A folder as the pages assume it: configuration, policies, certificates, recordings and inputs."""
    texts = {block.first_line.split(":")[0]: block.text for block in blocks_of(ROOT / "README.md")}
    (folder / "policy.yaml").write_text(texts["# policy.yaml"])
    config = texts["# hybrid.yaml with a node"].replace("7443", str(port))
    (folder / "hybrid.yaml").write_text(config + "spend: {file: spend.db}\n")
    for name in ("tls", "certs"):
        shutil.copytree(tls, folder / name)
    policy_files(folder)
    input_files(folder)
    suite_files(folder)
    recipe_files(folder)
    rights_files(folder)
    shutil.copytree(embedded_model(), folder / "models" / "edge")
    (folder / "registry.key").write_text("0123456789abcdef" * 4)
    recordings = [folder / f"{name}.jsonl" for name in ("decisions", "monday", "tuesday")]
    with HybridLLM.from_config(folder / "hybrid.yaml", hooks=[DecisionRecorder(recordings[0])]) as llm:
        llm.generate("What is 12 + 30?", max_tokens=4, request_id="3f9a", tenant="acme")
    for copy in recordings[1:]:
        shutil.copy(recordings[0], copy)
    return folder
