"""`https://...`: one file from a web server, through the proxy that the environment names, resumed after a cut."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from hybrid_llm.backends.models.sources.local import suggested
from hybrid_llm.backends.models.sources.resuming import Body, Broken, Refused, Version, download
from hybrid_llm.backends.models.sources.source import SHA256, Fetched, FetchFailed, Report, Wanted, check_sha256, digest
from hybrid_llm.core.errors import ConfigError

_TIMEOUT_S: Final = 30.0
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")
_SUFFIXES: Final = (".gguf", ".whl")
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _LeavesTls(URLError):
    """A redirect to an address without TLS."""


class _OnlyHttps(HTTPRedirectHandler):
    """Follows redirects, but not out of TLS."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.lower().startswith("https://"):
            raise _LeavesTls("the server redirects to an address without TLS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True, slots=True)
class HttpsSource:
    """`https://HOST/PATH/NAME.gguf`, optionally with `#sha256=HEX` as pip has it."""

    url: str
    sha256: str = ""
    remote: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> HttpsSource:
        """Read a URL; ConfigError if it is of another scheme or names no file of a known kind."""
        url, _, fragment = text.partition("#")
        found, parts = fragment.removeprefix("sha256=").lower(), urlsplit(url)
        if not parts.hostname or not parts.path.lower().endswith(_SUFFIXES):
            raise ConfigError(f"{_shown(url)} is not https://HOST/PATH of a .gguf file, or of a wheel that holds one")
        if fragment and not SHA256.fullmatch(found):
            raise ConfigError(f"{_shown(url)}: what stands after # is not sha256= and 64 hex digits")
        return cls(url, found)

    @property
    def text(self) -> str:
        """The URL without user, password, query and fragment, which may be secrets."""
        return _shown(self.url)

    @property
    def suggestion(self) -> str:
        """The name of the file."""
        return suggested(PurePosixPath(self._file).stem)

    @property
    def _file(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name.replace("/", "_").replace("\\", "_")

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:
        """Download the file, by ranges where the server has them."""
        path = folder / f"download{PurePosixPath(self._file).suffix.lower()}"
        if not path.is_file():
            try:
                download(path, self._open, report)
            except Broken as error:
                raise self._failed(str(error), wanted) from None
            except HTTPError as error:
                raise self._failed(f"the server answers {error.code} {error.reason}", wanted) from None
        found = digest(path, report)
        try:
            for expected in filter(None, (wanted.sha256, self.sha256)):
                check_sha256(found, expected, self.text)
        except Exception:
            path.unlink()  # going on with it would never help
            raise
        return Fetched(path=path, sha256=found)

    def _open(self, start: int, known: Version | None) -> Body:
        headers = {"Accept-Encoding": "identity", "User-Agent": "hybrid-llm"}
        if start and known is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": known.tag}
        try:
            # S310: only https, in redirects too
            response = _opener().open(Request(self.url, headers=headers), timeout=_TIMEOUT_S)  # noqa: S310
        except HTTPError as error:
            if error.code == 416:  # all of it is there, or the file shrank: begin again
                return self._open(0, None)
            if error.code not in _TRANSIENT:
                raise
            raise Broken(f"the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            distrusted = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
            kind = Refused if distrusted or isinstance(error, _LeavesTls) else Broken
            raise kind(_reason(error)) from None
        return _body(response)

    def _failed(self, why: str, wanted: Wanted) -> FetchFailed:
        get = f"download {self.text} on a machine with one, copy the file here and run `{wanted.copy}`"
        return FetchFailed(f"{self.text} was not downloaded: {why}\nwithout a network here: {get}")


def _opener() -> OpenerDirector:
    return build_opener(ProxyHandler(), HTTPSHandler(), _OnlyHttps())


def _body(response: http.client.HTTPResponse) -> Body:
    headers, start = response.headers, 0
    size = int(headers.get("Content-Length") or 0)
    if response.status == 206 and (span := _RANGE.fullmatch(headers.get("Content-Range", ""))):
        start, size = int(span[1]), int(span[2])
    tag = headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak tag does not promise the same bytes
        tag = headers.get("Last-Modified", "")
    version = Version(tag=tag, size=size)
    return Body(version=version, start=start, read=partial(_read, response.read1), close=response.close)


def _read(read: Callable[[int], bytes], count: int) -> bytes:
    try:
        return read(count)
    except (OSError, http.client.HTTPException) as error:
        raise Broken(_reason(error)) from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"https://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
