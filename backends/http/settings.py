"""What is set of a server that is called over HTTP, and what of it would break a promise. Imports no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import SplitResult, urlsplit

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.fields import Choice, File, Flag, Number, Text, Whole, duration, key
from hybrid_llm.core.hosts import canonical_host, is_loopback
from hybrid_llm.core.request import Location
from hybrid_llm.core.secret import Secret, secret_table

_ROUTES: Final = ("/chat/completions", "/completions", "/responses", "/messages")
"""How the URL of a route ends, which is at times written in place of that of the server."""


def _url(text: str) -> str:
    """*text*, if it is an HTTP URL of a server; ValueError with what is wrong with it."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        raise ValueError(f"`{text}` is no URL of a server, such as http://127.0.0.1:8000/v1")
    if route := next((each for each in _ROUTES if parts.path.rstrip("/").endswith(each)), ""):
        raise ValueError(f"`{text}` is the URL of one route; leave out {route}")
    canonical_host(parts.hostname)
    _ = parts.port  # ValueError if it is none
    return text


_PROVIDERS: Final = {
    "openai.azure.com": "azure.ai.openai",
    "openai.com": "openai",
    "anthropic.com": "anthropic",
    "mistral.ai": "mistral_ai",
    "deepseek.com": "deepseek",
    "groq.com": "groq",
    "x.ai": "x_ai",
    "perplexity.ai": "perplexity",
    "cohere.com": "cohere",
    "moonshot.ai": "moonshot_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
}
"""Domain -> the well-known value of `gen_ai.provider.name`."""

_KEY: Final = secret_table("api_key", "Where the key of the server is found.")
KEY_HEADER: Final = Choice({"bearer": "authorization", "api-key": "api-key", "x-api-key": "x-api-key"})
URL: Final = Text("a URL", r"^https?://", _url)
"""The URL of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """A server that is called over HTTP."""

    kind: ClassVar[str] = "http"
    extra: ClassVar[str] = "openai"
    """The extra of this package that brings the HTTP client."""

    name: str
    base_url: str = key(URL, "Its URL.")
    model: str = key(Text("a model's name"), "The model that it is asked for.")
    api_key: Secret | None = key(_KEY, _KEY.about, default=None, hint="api_key: {env: NAME}")
    location: Location = key(
        Choice({"edge": Location.EDGE, "cloud": Location.CLOUD}),
        "Where it runs; `edge` only for a server on this device, at a loopback address or a socket.",
        default=Location.CLOUD,
    )
    socket: Path | None = key(
        File(), "The Unix socket to connect to, in place of the host of `base_url`.", default=None
    )
    key_header: str = key(
        KEY_HEADER,
        "How the key is sent: `bearer`, `api-key` as Azure takes it, or `x-api-key` as Anthropic does.",
        default="authorization",
    )
    context_window: int = key(
        Whole(0, 2**31 - 1), "Tokens of prompt and answer together; 0 takes what the server reports.", default=0
    )
    tools: bool | None = key(
        Flag(), "Whether it calls tools; left out, what the server reports counts, else true.", default=None
    )
    output_schema: bool | None = key(
        Flag(), "Whether it follows a JSON Schema; left out, what the server reports counts, else true.", default=None
    )
    insecure: bool = key(
        Flag(), "Allow plain HTTP to another machine: everybody on the way can read it.", default=False
    )
    ca: Path | None = key(File(), "Certificates of authorities to trust in place of the system's.", default=None)
    proxy: str | None = key(URL, "The proxy to use; those of the environment are not.", default=None)
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
    def host(self) -> str:
        """The host of *base_url*."""
        return self.url.hostname or ""

    @property
    def address(self) -> str:
        """Where it is, for people: the socket, or host and port."""
        return str(self.socket) if self.socket is not None else self.url.netloc

    @property
    def endpoint(self) -> str:
        """Where it is, for telemetry: the socket, or `HOST:PORT`."""
        port = self.url.port or (443 if self.url.scheme == "https" else 80)
        return str(self.socket) if self.socket is not None else f"{self.host}:{port}"

    @property
    def provider(self) -> str:
        """Who serves the model, in OpenTelemetry's words; of a server that it has no name for, whose API it speaks."""
        known = (name for host, name in _PROVIDERS.items() if self.host == host or self.host.endswith(f".{host}"))
        return next(known, self.kind)

    @property
    def is_local(self) -> bool:
        """Whether the server is at a loopback address, or at a socket of this machine."""
        return self.socket is not None or is_loopback(self.host)

    def key_headers(self) -> dict[str, str]:
        """The header that holds the key; none without one. Raises ConfigError if the key is not there."""
        if self.api_key is None:
            return {}
        name, secret = self.key_header, self.api_key.read("api_key")
        return {name: f"Bearer {secret}" if name == "authorization" else secret}

    @property
    def declared_server(self) -> str:
        """What the file says that the server is; empty if it leaves that open."""
        return ""

    @property
    def gives_logprobs(self) -> bool:
        """Whether it gives log-probabilities."""
        return False

    @property
    def takes_penalties(self) -> bool:
        """Whether its API has presence and frequency penalties."""
        return False

    @property
    def sealing_keys(self) -> Path | None:
        """The file of accepted sealing keys; None where nothing is sealed."""
        return None

    @property
    def is_readable(self) -> bool:
        """Whether what is sent to another machine is not encrypted."""
        return self.url.scheme == "http" and not self.is_local

    def check(self) -> None:
        """Refuse what would break a promise, and what is not installed.

        Raises:
            ConfigError: text would leave the device in the clear, or be called local where it leaves the device.
        """
        if self.location is Location.EDGE and not self.is_local:
            remedy = "write 127.0.0.1 or [::1], name its `socket`, or `location: cloud`"
            raise ConfigError(
                f"{self.name}: {self.base_url} is no loopback address, so it is not on the edge; {remedy}"
            )
        if self.is_readable and not self.insecure:
            remedy = "use https, or `insecure: true` where the network itself is encrypted"
            if self.host == "localhost":
                remedy = "write 127.0.0.1 in place of localhost, a name that may lead elsewhere"
            raise ConfigError(f"{self.name}: {self.base_url} sends prompts in the clear to another machine; {remedy}")
        if self.proxy is not None and (self.location is Location.EDGE or self.socket is not None):
            raise ConfigError(f"{self.name}: a server on this device is reached without a proxy; leave `proxy` out")
        if find_spec("httpx") is None:
            needs = f"a backend of kind `{self.kind}` needs httpx: {install_hint(self.extra)}"
            raise ConfigError(f"{self.name}: {needs}")

    def fingerprint(self) -> str:
        """The URL and the model."""
        return f"{self.base_url} {self.model}"
