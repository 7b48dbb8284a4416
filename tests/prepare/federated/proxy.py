"""A proxy that ends TLS on both sides, as nobody without our keys can, and records every byte between them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.backends.wire.channels import client_credentials, client_options, server_credentials
from hybrid_llm.prepare.federated.frames import MAX_BYTES, METHOD, NAME, SERVICE


class RecordingProxy:
    """Stands between the client *name* and the server; `sent` and `received` are the frames, as bytes."""

    def __init__(self, tls: Path, name: str, upstream: str) -> None:
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        credentials = client_credentials(TLSFiles.from_dir(tls, name))
        self._channel = grpc.secure_channel(upstream, credentials, client_options(max_message_bytes=MAX_BYTES))
        sizes = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]
        self._server = grpc.server(ThreadPoolExecutor(4), options=sizes)
        handler = grpc.stream_stream_rpc_method_handler(self._forward)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {NAME: handler}),))
        self.port = self._server.add_secure_port("127.0.0.1:0", server_credentials(TLSFiles.from_dir(tls, "server")))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.stop(None).wait()
        self._channel.close()

    def _forward(self, frames: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for frame in self._channel.stream_stream(METHOD)(_noted(frames, self.sent)):
            self.received.append(frame)
            yield frame


def _noted(frames: Iterator[bytes], into: list[bytes]) -> Iterator[bytes]:
    for frame in frames:
        into.append(frame)
        yield frame
