"""Asks one node, once and without a prompt, whether it serves: for probes of containers and load balancers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from hybrid_llm.backends.grpc.address import EndpointAddress, GrpcConfig
from hybrid_llm.backends.wire import channels
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.backends.wire.tls import check_files

_LEAST_S: Final = 0.1
"""What the question gets in any case, seconds, where the handshake took nearly all of the time."""


def check_node(config: GrpcConfig, *, timeout: float) -> None:
    """Ask a node by grpc.health.v1 whether it serves, within *timeout* seconds.

    Raises:
        ConfigError: a file of the certificates cannot be used.
        BackendUnavailable: it cannot be reached, or reports that it does not serve: the reason is then `not_ready`.
        AuthenticationFailed, UntrustedPeer: one side does not accept the other's certificate.
    """
    end = time.monotonic() + timeout
    check_files(config.tls, "client")
    endpoint = EndpointAddress(config, Lookup())
    endpoint.handshake(timeout)  # it says why, where gRPC has one message for all failures
    target = str(replace(endpoint.address, host=endpoint.ip))
    server_name = endpoint.address.server_name
    options = channels.client_options(
        connect_timeout=timeout, server_name=server_name if server_name != endpoint.ip else None
    )
    with channels.sync_channel(target, channels.client_credentials(config.tls), options) as channel:
        channels.check_serving(channel, max(end - time.monotonic(), _LEAST_S), backend=config.name)
