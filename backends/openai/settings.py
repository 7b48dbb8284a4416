"""What is set of a server that speaks Chat Completions, and what of it would break a promise. Imports no HTTP."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, File, Flag, Key, Number, Table, Text, Whole, duration, key
from hybrid_llm.core.hosts import canonical_host
from hybrid_llm.core.request import Location

Dialect = Literal["auto", "openai", "vllm", "llama.cpp", "ollama", "other"]
_OPENAI_HOSTS: Final = ("api.openai.com", ".openai.azure.com")
_KEY_HEADERS: Final[Mapping[str, str]] = {"bearer": "authorization", "api-key": "api-key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Where the key of a server is found; it is read when the backend is opened, and never shown."""

    env: str | None = key(Text("the name of a variable"), "The environment variable that holds it.", default=None)
    file: Path | None = key(File(), "The file that holds it.", default=None)

    def read(self) -> str:
        """The key. Raises ConfigError if it is not there."""
        if self.env is not None:
            found, place = os.environ.get(self.env, ""), f"the environment variable {self.env}"
        else:
            assert self.file is not None
            found, place = _text_of(self.file), str(self.file)
        if not found.strip() or not found.strip().isascii() or not found.strip().isprintable():
            raise ConfigError(f"api_key: {place} has no key of printable ASCII")
        return found.strip()


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


_API_KEY: Final = Table(
    title="api_key",
    about="Where the key of the server is found.",
    keys=(
        Key("env", Text("the name of a variable"), "The environment variable that holds it."),
        Key("file", File(), "The file that holds it."),
    ),
    make=lambda found: ApiKey(**found.values),
    exactly_one=("env", "file"),
)


def _url(text: str) -> str:
    """*text*, if it is an HTTP URL of a server; ValueError with what is wrong with it."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        raise ValueError(f"`{text}` is no URL of a server, such as http://127.0.0.1:8000/v1")
    canonical_host(parts.hostname)
    _ = parts.port  # ValueError if it is none
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """A server that speaks OpenAI's Chat Completions: a hosted API, vLLM, SGLang, llama.cpp, Ollama, LM Studio."""

    name: str
    base_url: str = key(Text("a URL", r"^https?://", _url), "Its URL, as clients of OpenAI take it: it ends in `/v1`.")
    model: str = key(Text("a model's name"), "The model that it is asked for.")
    api_key: ApiKey | None = key(_API_KEY, _API_KEY.about, default=None, hint="api_key: {env: NAME}")
    location: Location = key(
        Choice({"edge": Location.EDGE, "cloud": Location.CLOUD}),
        "Where it runs; `edge` only for a server on this device, at a loopback address.",
        default=Location.CLOUD,
    )
    dialect: Dialect = key(
        Choice.of("auto", "openai", "vllm", "llama.cpp", "ollama", "other"),
        "What the server understands besides; `auto` knows OpenAI and Azure by their hosts, else takes `other`.",
        default="auto",
    )
    context_window: int = key(
        Whole(0, 2**31 - 1), "Tokens of prompt and answer together; 0 if it is unknown.", default=0
    )
    tools: bool = key(Flag(), "Whether it calls tools.", default=True)
    output_schema: bool = key(Flag(), "Whether it follows a JSON Schema (`response_format`).", default=True)
    logprobs: bool = key(Flag(), "Whether it gives log-probabilities.", default=False)
    key_header: str = key(
        Choice(_KEY_HEADERS), "How the key is sent: `bearer`, or `api-key` as Azure takes it.", default="authorization"
    )
    insecure: bool = key(
        Flag(), "Allow plain HTTP to another machine: everybody on the way can read it.", default=False
    )
    ca: Path | None = key(File(), "Certificates of authorities to trust in place of the system's.", default=None)
    proxy: str | None = key(
        Text("a URL", r"^https?://", _url), "The proxy to use; those of the environment are not.", default=None
    )
    connect_timeout_s: float = key(duration(), "Time to connect.", name="connect_timeout", default=5.0)
    idle_timeout_s: float = key(
        duration(), "Time without a byte of the answer after which it is given up.", name="idle_timeout", default=60.0
    )
    energy_per_1k_tokens_j: float = key(
        Number(), "Energy that the device spends to send and receive 1,000 tokens, joules.", default=0.0
    )

    @property
    def url(self) -> SplitResult:
        """The parts of *base_url*."""
        return urlsplit(self.base_url)

    @property
    def is_local(self) -> bool:
        """Whether the server is at a loopback address."""
        host = self.url.hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def understood(self) -> str:
        """The dialect, never `auto`."""
        if self.dialect != "auto":
            return self.dialect
        host = self.url.hostname or ""
        return "openai" if any(host == each or host.endswith(each) for each in _OPENAI_HOSTS) else "other"

    def check(self) -> None:
        """Refuse what would break a promise.

        Raises:
            ConfigError: text would leave the device in the clear, or be called local where it leaves the device.
        """
        if self.location is Location.EDGE and not self.is_local:
            remedy = "write 127.0.0.1 or [::1], or `location: cloud`"
            raise ConfigError(
                f"{self.name}: {self.base_url} is no loopback address, so it is not on the edge; {remedy}"
            )
        if self.url.scheme == "http" and not (self.is_local or self.insecure):
            remedy = "use https, or `insecure: true` where the network itself is encrypted"
            raise ConfigError(f"{self.name}: {self.base_url} sends prompts in the clear to another machine; {remedy}")
        if self.location is Location.EDGE and self.proxy is not None:
            raise ConfigError(f"{self.name}: a server on this device is reached without a proxy; leave `proxy` out")

    def fingerprint(self) -> str:
        """The URL and the model."""
        return f"{self.base_url} {self.model}"
