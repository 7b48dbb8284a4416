"""A gRPC proxy that ends TLS between an app and a node, and changes what passes."""

import grpc
import grpc.aio

from benchmarks._tls_proxy import InThread
from hybrid_llm.backends.wire.channels import client_credentials, server_credentials
from hybrid_llm.backends.wire.status import ERROR_KEY, LOAD_KEY, PROTOCOL_KEY


class Meddler(InThread, grpc.GenericRpcHandler):
    """A gRPC proxy that ends TLS, and changes the messages of `Generate`: *request* bytes and a list of *answer* bytes.

    *seen* has the requests as they came; *repeat*: each is sent to the node that often, and its last answer is used.
    """

    def __init__(self, files, client, port, *, request=bytes, answer=list, describe=bytes, repeat=1):
        self._files, self._client, self._upstream = files, client, port
        self.request, self.answer, self.describe, self.repeat = request, answer, describe, repeat
        self.seen, self.errors = [], []

    async def opened(self):
        self._channel = grpc.aio.secure_channel(f"127.0.0.1:{self._upstream}", client_credentials(self._client))
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_secure_port("127.0.0.1:0", server_credentials(self._files))
        await self._server.start()

    async def shut(self):
        await self._server.stop(0)
        await self._channel.close()

    def service(self, details):
        if details.method.endswith("Generate"):
            return grpc.unary_stream_rpc_method_handler(self._generate)
        if details.method.endswith("Describe"):
            return grpc.unary_unary_rpc_method_handler(self._described)
        return None

    async def _described(self, data, context):
        return self.describe(await self._channel.unary_unary("/hybrid_llm.v1.HybridLLM/Describe")(data))

    async def _generate(self, data, context):
        self.seen.append(data)
        call = self._channel.unary_stream("/hybrid_llm.v1.HybridLLM/Generate")
        metadata = [(key, value) for key, value in context.invocation_metadata() if key == PROTOCOL_KEY]
        for _ in range(self.repeat):
            stream = call(self.request(data), metadata=metadata, timeout=10)
            try:
                answer = [each async for each in stream]
            except grpc.aio.AioRpcError as error:
                self.errors.append(error)
                trailing = [(key, value) for key, value in error.trailing_metadata() if key in (ERROR_KEY, LOAD_KEY)]
                context.set_trailing_metadata(tuple(trailing))
                await context.abort(error.code(), error.details())
        for each in self.answer(answer):
            yield each
