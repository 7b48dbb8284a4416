"""How a client reaches a node: mutual TLS channels, sync and asyncio, with gRPC's own retries off.

Retrying is the router's business alone, under one budget. No proxy and no service configuration from DNS is asked: a
channel opens one connection, to the target that the user named.

How a node listens: mutual TLS whose certificates are read again when their files change, without a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import grpc
import grpc.aio
from grpc.experimental import ChannelOptions

from hybrid_llm.backends.wire.certificates import TLSFiles, read_file
from hybrid_llm.backends.wire.tls import FileWatch, check_pair
from hybrid_llm.core.errors import ConfigError

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest message that client and node accept, bytes."""

Options = list[tuple[str, str | int]]


def client_credentials(files: TLSFiles) -> grpc.ChannelCredentials:
    """Read *files* into the credentials of a client; raises `ConfigError` when one cannot be read."""
    return grpc.ssl_channel_credentials(
        root_certificates=read_file(files.ca),
        private_key=read_file(files.key),
        certificate_chain=read_file(files.cert),
    )


def client_options(
    *, max_message_bytes: int = MAX_MESSAGE_BYTES, connect_timeout: float = 5.0, server_name: str | None = None
) -> Options:
    """The options of a client's channel; *server_name* is whom the certificate must name, where not the target."""
    options: Options = [
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # While calls run: a node that says nothing at all for five seconds is gone, and they go on elsewhere.
        ("grpc.keepalive_time_ms", 2_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.http2.ping_timeout_ms", 3_000),
        # By default gRPC sends no third ping before the app sends data, which it never does while it reads an answer.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 0),
        # This is also the time that one attempt to connect gets.
        ("grpc.min_reconnect_backoff_ms", int(connect_timeout * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


def sync_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.Channel:
    """Open a channel for threads. A stream is read by the thread that iterates, without one of its own."""
    return grpc.secure_channel(target, credentials, options=[*options, (ChannelOptions.SingleThreadedUnaryStream, 1)])


def aio_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.aio.Channel:
    """Open a channel for the event loop that is running.

    gRPC stops its poller when the last asyncio object is collected, by whatever thread collects, and starts another
    with the next one. The reference taken here is never given back, so that the poller of this process stays.
    """
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # the stubs do not know it
    return grpc.aio.secure_channel(target, credentials, options=options)


_log = logging.getLogger(__name__)


class _Reloader:
    """What gRPC asks before each handshake: new certificates, or None to go on with the ones it has."""

    def __init__(self, files: TLSFiles) -> None:
        self._files = files
        self._watch = FileWatch(files)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        if not self._watch.changed():
            return None
        try:
            configuration = _configuration(self._files)
        except ConfigError as error:
            _log.warning("the certificates changed and are not taken: %s", error)
            return None
        _log.info("the certificates were read again from %s", self._files.cert)
        return configuration


def _configuration(files: TLSFiles) -> grpc.ServerCertificateConfiguration:
    check_pair(files, "node")
    pair = (read_file(files.key), read_file(files.cert))
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=read_file(files.ca))


def server_credentials(files: TLSFiles) -> grpc.ServerCredentials:
    """Credentials that demand a client's certificate and follow changes of *files*.

    Connections that are open keep the certificates of their handshake, for at most the age that `server_options` set.

    Raises:
        ConfigError: the files do not let their holder serve; see `check_pair`.
    """
    reloader = _Reloader(files)
    fetch = cast(
        Callable[[], grpc.ServerCertificateConfiguration], reloader
    )  # the stubs forget that None is "no change"
    return grpc.dynamic_ssl_server_credentials(_configuration(files), fetch, require_client_authentication=True)


def server_options(*, max_message_bytes: int, max_connection_age: float) -> list[tuple[str, int]]:
    """The options of a node's server; *max_connection_age* in seconds."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", 300_000),
        # An app that is gone without a word is noticed within half a minute, and its requests end.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # How often an app may ask whether the node is there, as `client_options` does.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ]
