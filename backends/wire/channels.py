"""Opens a client's channels and configures a node's server: mutual TLS, message limits, keepalive.

gRPC's own retries are off, since only the router retries, under one budget. It uses no proxy and no service
configuration from DNS: a channel opens one connection, to the target that the user named. A node reads its certificates
again when their files change.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from typing import Final, cast

import grpc
import grpc.aio
from grpc.experimental import ChannelOptions

from hybrid_llm.backends.wire.certificates import PemFiles, TLSFiles
from hybrid_llm.backends.wire.tls import FileWatch, check_pair
from hybrid_llm.core.errors import BackendUnavailable, ConfigError

_log = logging.getLogger(__name__)

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
"""A `HealthCheckResponse` with the status SERVING; the package of its messages is not needed for that."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The largest message that client and node accept, bytes."""

_DESCRIPTORS: Final = 16
"""Free descriptors before a channel is opened; gRPC takes 4 with the first one, and 6 with the first for asyncio."""

Options = list[tuple[str, str | int]]


def client_credentials(files: TLSFiles) -> grpc.ChannelCredentials:
    """Read *files* into the credentials of a client; raises `ConfigError` when one cannot be read."""
    pem = PemFiles.read(files)
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def client_options(
    *, max_message_bytes: int = MAX_MESSAGE_BYTES, connect_timeout: float = 5.0, server_name: str | None = None
) -> Options:
    """Return the options of a client's channel; *server_name* is the name in the certificate where not the target's."""
    options: Options = [
        # Neither DNS nor the environment may add retries, or send the prompt through a proxy.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        # A new channel opens a new connection; a shared subchannel would keep the broken one and its backoff.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # A node that sends nothing for five seconds, not even the reply to a ping, is lost: its calls end.
        ("grpc.keepalive_time_ms", 2_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.http2.ping_timeout_ms", 3_000),
        # By default gRPC sends no third ping until the app sends data, which it never does while it reads an answer.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 0),
        # gRPC also gives one attempt to connect this time.
        ("grpc.min_reconnect_backoff_ms", int(connect_timeout * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


_NOT_ASKED: Final = frozenset(
    {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
)
"""What a server answers that is up, and does not tell us whether it serves."""


def check_serving(
    channel: grpc.Channel, timeout: float, *, backend: str, metadata: tuple[tuple[str, str], ...] = ()
) -> None:
    """Ask a server over *channel* whether it serves (grpc.health.v1), within *timeout* seconds.

    A server without that service, or that does not let us ask, is taken to serve.

    Raises:
        BackendUnavailable: it reports that it does not (the reason `not_ready`), or sent no answer; the cause is then
            a TimeoutError.
    """
    check = channel.unary_unary(_HEALTH_CHECK, None, None)  # the empty message asks about the server as a whole
    try:
        reply: bytes = check(b"", timeout=timeout, metadata=metadata)
    except grpc.RpcError as error:
        code = error.code()
        if code in _NOT_ASKED:
            return
        late = TimeoutError() if code is grpc.StatusCode.DEADLINE_EXCEEDED else None
        raise BackendUnavailable(f"{backend} could not be asked whether it serves", backend=backend) from late
    if reply != _SERVING:
        raise BackendUnavailable(f"{backend} reports that it does not serve now", backend=backend, reason="not_ready")


def _need_descriptors() -> None:
    """Raise OSError where few descriptors are left: gRPC ends the process if it gets none when it starts.

    If it gets too few when its part for asyncio starts, this part never starts again.
    """
    with ExitStack() as stack:
        for _ in range(_DESCRIPTORS):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def sync_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.Channel:
    """Open a channel for threads. The thread that iterates reads the stream; gRPC starts none for it.

    Raises:
        OSError: this process has too few descriptors left.
    """
    _need_descriptors()
    return grpc.secure_channel(target, credentials, options=[*options, (ChannelOptions.SingleThreadedUnaryStream, 1)])


def aio_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.aio.Channel:
    """Open a channel for the running event loop, in plaintext without *credentials*; raises as `sync_channel` does."""
    _need_descriptors()
    # gRPC stops its poller when the last asyncio object is collected, in whatever thread collects it, and starts
    # another with the next one. The reference taken here is never released, so this process keeps one poller.
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # the stubs do not know it
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def server_credentials(files: TLSFiles) -> grpc.ServerCredentials:
    """Return credentials that require a client's certificate and follow changes of *files*.

    Open connections keep the certificates of their handshake, for at most the age that `server_options` sets.

    Raises:
        ConfigError: the files do not let their holder serve; see `check_pair`.
    """
    watch = FileWatch(files)

    def read() -> grpc.ServerCertificateConfiguration:
        check_pair(files, "node")
        pem = PemFiles.read(files)
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca)

    def fetch() -> grpc.ServerCertificateConfiguration:
        """Called before each handshake; None keeps the certificates, which the stubs omit."""
        nothing = cast(grpc.ServerCertificateConfiguration, None)
        if not watch.changed():
            return nothing
        try:
            configuration = read()
        except ConfigError as error:
            _log.warning("the certificate files changed, but cannot be used: %s", error)
            return nothing
        _log.info("certificates reloaded from %s", files.cert)
        return configuration

    return grpc.dynamic_ssl_server_credentials(read(), fetch, require_client_authentication=True)


def server_options(
    *, max_message_bytes: int, max_connection_age: float, max_connections: int = 1024, max_streams: int = 128
) -> list[tuple[str, int]]:
    """Return the options of a node's server; *max_connection_age* is in seconds, *max_streams* per connection."""
    return [
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.max_concurrent_streams", max_streams),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Else gRPC takes megabytes of every request in advance where the network is fast. Once a request is read, gRPC
        # takes all of it; before, 64 KiB.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.experimental.tcp_max_read_chunk_size", 256 * 1024),
        # Each reset stream is answered by a ping, and more streams wait for its reply: a flood of resets slows itself.
        ("grpc.http2.ping_on_rst_stream_percent", 100),
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", 300_000),
        ("grpc.max_connection_idle_ms", 600_000),
        # An app that vanished without closing its connection is noticed within 30 s, and its requests end.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # How often an app may ping; `client_options` pings every two seconds.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ]
