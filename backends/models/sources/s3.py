"""`s3://BUCKET/KEY`: one object from S3 or what speaks its protocol, with the user's own credentials, resumed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final

from hybrid_llm.backends.models.sources.local import suggested
from hybrid_llm.backends.models.sources.resuming import Body, Broken, Version, download
from hybrid_llm.backends.models.sources.source import Fetched, FetchFailed, Report, Wanted, check_sha256, digest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

_SUFFIXES: Final = (".gguf", ".whl")


@dataclass(frozen=True, slots=True)
class S3Source:
    """`s3://BUCKET/PATH/NAME.gguf`."""

    url: str
    remote: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> S3Source:
        """Read what stands after `s3://`; ConfigError if it names no file of a known kind."""
        bucket, _, key = text.partition("/")
        if not bucket or not key.lower().endswith(_SUFFIXES):
            raise ConfigError(f"s3://{text} is not s3://BUCKET/KEY of a .gguf file, or of a wheel that holds one")
        return cls(f"s3://{text}")

    @property
    def text(self) -> str:
        """The URL, which holds no credentials."""
        return self.url

    @property
    def suggestion(self) -> str:
        """The name of the object."""
        return suggested(PurePosixPath(self.url).stem)

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:
        """Download the object. Credentials, region and endpoint are those of the environment and of `~/.aws`."""
        files = _file_system()
        path = folder / f"download{PurePosixPath(self.url).suffix.lower()}"
        try:
            if not path.is_file():
                download(path, partial(self._open, files), report)
        except Broken as error:
            get = f"copy {self.url} here and run `{wanted.copy}`"
            raise FetchFailed(f"{self.url} was not downloaded: {error}\nwithout a network here: {get}") from None
        found = digest(path, report)
        try:
            check_sha256(found, wanted.sha256, self.url)
        except Exception:
            path.unlink()  # going on with it would never help
            raise
        return Fetched(path=path, sha256=found)

    def _open(self, files: Any, start: int, known: Version | None) -> Body:
        try:
            files.invalidate_cache()
            about = files.info(self.url)
            version = Version(tag=str(about.get("ETag", "")), size=int(about["size"]))
            stream = files.open(self.url, "rb", cache_type="none")
            start = start if version == known else 0
            stream.seek(start)
        except Exception as error:  # noqa: BLE001  # s3fs, aiobotocore and aiohttp have no common class
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
