"""What `hybrid-llm doctor` checks of a gateway: its packages, its keys and its certificate. Nothing listens."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_llm.cli.doctor_checks import Setup
from hybrid_llm.cli.findings import Finding, fault, ok, warning
from hybrid_llm.cli.gateway import missing_packages, refuse_itself
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint, listed
from hybrid_llm.router.config.gateway import GatewayConfig


def check_gateway(setup: Setup) -> Iterator[Finding]:
    """Whether `hybrid-llm gateway` would start, where the file says anything of it under `gateway:`."""
    if setup.config is None or (config := setup.config.gateway) == GatewayConfig():
        return
    if missing := missing_packages():
        yield fault("gateway", f"it needs {listed(missing)}", install_hint("gateway"))
        return
    from hybrid_llm.gateway.config import open_keys
    from hybrid_llm.gateway.server import Tls

    try:
        refuse_itself(config, setup.config.backends)
        keys = open_keys(config)
        if config.tls is not None:
            Tls(config.tls)
    except ConfigError as error:
        yield fault("gateway", str(error), "correct `gateway` in the file, or the file that it names")
        return
    if not config.is_local and config.tls is None:
        yield warning(
            "gateway", f"keys and prompts come to {config.listen} in the clear", "set `tls`, or put a proxy before it"
        )
    scheme, whom = "http" if config.tls is None else "https", "this machine" if keys is None else "who has a key"
    yield ok("gateway", f"{scheme}://{config.listen} for {whom}")
