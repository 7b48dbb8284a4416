"""How a node listens: mutual TLS whose certificates are read again when their files change, without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import grpc

from hybrid_llm.backends.transport.certificates import TLSFiles, read_file
from hybrid_llm.backends.transport.checks import check_pair
from hybrid_llm.backends.transport.watch import FileWatch
from hybrid_llm.router.errors import ConfigError

__all__ = ["server_credentials", "server_options"]

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
