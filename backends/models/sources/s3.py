"""`s3://BUCKET/KEY` or `s3://BUCKET/FOLDER/`: from S3 or what speaks its protocol, with the user's own credentials."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final

from hybrid_llm.backends.models.sources.choice import chosen
from hybrid_llm.backends.models.sources.local import suggested
from hybrid_llm.backends.models.sources.resuming import Body, Broken, Version, download
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

_SUFFIXES: Final = (".gguf", ".whl")


@dataclass(frozen=True, slots=True)
class S3Source:
    """`s3://BUCKET/PATH/NAME.gguf`, or `s3://BUCKET/PATH/` for what is right in a folder."""

    url: str
    remote: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> S3Source:
        """Read what stands after `s3://`; ConfigError if it names no file of a known kind, and no folder."""
        bucket, _, key = text.partition("/")
        if not bucket or not key.lower().endswith((*_SUFFIXES, "/")):
            message = "is not s3://BUCKET/KEY of a .gguf file or of a wheel that holds one, nor s3://BUCKET/FOLDER/"
            raise ConfigError(f"s3://{text} {message}")
        return cls(f"s3://{text}")

    @property
    def text(self) -> str:
        """The URL, which holds no credentials."""
        return self.url

    @property
    def suggestion(self) -> str:
        """The name of the object or folder."""
        return suggested(PurePosixPath(self.url).stem)

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:
        """Download it. Credentials, region and endpoint are those of the environment and of `~/.aws`."""
        files = _file_system()
        try:
            if self.url.endswith("/"):
                path = self._folder(files, folder / "files", wanted.file, report)
            else:
                path = folder / f"download{PurePosixPath(self.url).suffix.lower()}"
                _download(files, self.url, path, report)
        except Broken as error:
            get = f"copy {self.url} here and run `{wanted.copy}`"
            raise FetchFailed(f"{self.url} was not downloaded: {error}\nwithout a network here: {get}") from None
        found = digest_folder(path, report) if path.is_dir() else digest(path, report)
        try:
            check_sha256(found, wanted.sha256, self.url)
        except Exception:
            shutil.rmtree(path) if path.is_dir() else path.unlink()  # going on with it would never help
            raise
        return Fetched(path=path, sha256=found)

    def _folder(self, files: Any, folder: Path, pattern: str, report: Report) -> Path:
        """Download what makes a model in the folder of this URL: the path of its GGUF, or of all in *folder*."""
        sizes = _listed(files, self.url)
        names = chosen(sizes, pattern, self.url)
        folder.mkdir(exist_ok=True)
        require_space(folder, sum(sizes[name] for name in names), "the download")
        for name in names:
            _download(files, self.url + name, folder / name, report)
        return folder / names[0] if names[0].lower().endswith(".gguf") else folder


def _listed(files: Any, url: str) -> dict[str, int]:
    """Name -> size, bytes, of the objects right in the folder *url*."""
    try:
        files.invalidate_cache()
        found = files.ls(url, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001  # s3fs, aiobotocore and aiohttp have no common class
        raise _broken(error) from None
    return {PurePosixPath(one["name"]).name: int(one["size"]) for one in found if one["type"] == "file" and one["size"]}


def _download(files: Any, url: str, path: Path, report: Report) -> None:
    """Download one object, unless an earlier run had all of it."""
    if not path.is_file():
        download(path, partial(_open, files, url), report)


def _open(files: Any, url: str, start: int, known: Version | None) -> Body:
    try:
        files.invalidate_cache()
        about = files.info(url)
        version = Version(tag=str(about.get("ETag", "")), size=int(about["size"]))
        stream = files.open(url, "rb", cache_type="none")
        start = start if version == known else 0
        stream.seek(start)
    except Exception as error:  # noqa: BLE001  # as above
        raise _broken(error) from None
    return Body(version=version, start=start, read=partial(_read, stream), close=stream.close)


def _read(stream: Any, count: int) -> bytes:
    try:
        block: bytes = stream.read(count)
    except Exception as error:  # noqa: BLE001  # as above
        raise _broken(error) from None
    return block


def _broken(error: Exception) -> Broken:
    return Broken(f"{type(error).__name__}: {error}")


def _file_system() -> Any:
    try:
        import fsspec
        import s3fs  # noqa: F401  # fsspec would import it later, with a message of its own
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: {install_hint('s3')}") from None
    return fsspec.filesystem("s3")
