"""`hf:ORG/REPO[@REVISION]`: a repository of the Hugging Face Hub, by a commit that is pinned at the first download."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hybrid_llm.backends.models.sources.choice import chosen
from hybrid_llm.backends.models.sources.local import suggested
from hybrid_llm.backends.models.sources.source import (
    Fetched,
    FetchFailed,
    Report,
    Wanted,
    check_sha256,
    digest,
    digest_folder,
)
from hybrid_llm.backends.models.space import require_space
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.files import bytes_of

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_REPOSITORY: Final = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository, and a branch, tag or commit of it."""

    repo: str
    revision: str = "main"
    remote: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> HubSource:
        """Read what stands after `hf:`."""
        match = _REPOSITORY.fullmatch(text)
        if match is None or ".." in text:
            raise ConfigError(f"hf:{text} is not hf:ORG/REPO or hf:ORG/REPO@REVISION")
        return cls(match["repo"], match["revision"] or "main")

    @property
    def text(self) -> str:
        """`hf:ORG/REPO@REVISION`."""
        return f"hf:{self.repo}@{self.revision}"

    @property
    def suggestion(self) -> str:
        """The name of the repository."""
        return suggested(self.repo.partition("/")[2].removesuffix("-GGUF"))

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:
        """Download one GGUF, or what the converter needs; the Hub's library resumes, and uses its own token."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
        try:
            from huggingface_hub import snapshot_download
        except ImportError:
            raise ConfigError(f"huggingface_hub is missing: {install_hint('hub')}") from None
        report("asking the Hub what there is", 0.0)
        info = self._info(wanted)
        siblings = {one.rfilename: one for one in info.siblings or []}
        files = [siblings[name] for name in chosen(siblings, wanted.file, self.text)]
        total = sum(one.size or 0 for one in files)
        require_space(folder, total, "the download")
        names = [one.rfilename for one in files]
        with self._explained(wanted), _watched(folder, total, report):
            snapshot_download(
                self.repo, revision=info.sha, local_dir=folder, allow_patterns=names, tqdm_class=_quiet_bars()
            )
        return self._checked(folder, files, info.sha or "", wanted, report)

    def _info(self, wanted: Wanted) -> ModelInfo:
        from huggingface_hub import HfApi

        with self._explained(wanted):
            return HfApi().model_info(self.repo, revision=wanted.revision or self.revision, files_metadata=True)

    def _checked(self, folder: Path, files: list[RepoSibling], commit: str, wanted: Wanted, report: Report) -> Fetched:
        """Check what arrived: each large file against the hash that the Hub lists, and what is pinned."""
        for one in files:
            if one.lfs is not None:
                check_sha256(digest(folder / one.rfilename, report), one.lfs.sha256, f"{self.repo}/{one.rfilename}")
        alone = files[0].rfilename.endswith(".gguf")
        path = folder / files[0].rfilename if alone else folder
        found = digest(path, report) if alone else digest_folder(folder, report)
        check_sha256(found, wanted.sha256, self.text)
        return Fetched(path=path, sha256=found, revision=commit)

    @contextmanager
    def _explained(self, wanted: Wanted) -> Iterator[None]:
        """Turn the errors of the Hub's library into one that says what to do."""
        try:
            yield
        except Exception as error:  # its own classes, those of its HTTP client, and OSError
            kind, lines = type(error).__name__, str(error).strip().splitlines()
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise
            gated = kind in ("GatedRepoError", "RepositoryNotFoundError")
            advice = (
                "check its name; if it asks for consent, give that on its page and run `hf auth login`"
                if gated
                else self._offline(wanted)
            )
            why = f"{kind}: {lines[0] if lines else ''}"
            raise FetchFailed(f"{self.text} was not downloaded: {why}\n{advice}") from None

    def _offline(self, wanted: Wanted) -> str:
        get = f"run `hf download {self.repo}`, copy the file or folder here and run `{wanted.copy}`"
        return f"without a network here: on a machine with one, {get}"


@contextmanager
def _watched(folder: Path, total: int, report: Report) -> Iterator[None]:
    """Report how much of *folder* is there, while another library writes into it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            with suppress(OSError):  # the other library renames its files
                report("downloading", min(1.0, bytes_of(folder) / max(1, total)))

    watcher = threading.Thread(target=watch, name="hybrid-llm-download", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _quiet_bars() -> Any:
    from tqdm import tqdm

    class Quiet(tqdm):  # type: ignore[misc]  # it has no types
        """No bar: the command line has its own."""

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

    return Quiet
