"""llama.cpp's own server, as the package `xllamacpp` brings it: `python llama_cpp_server.py GGUF`."""

from __future__ import annotations

import sys
import threading

import xllamacpp

settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.hostnames, settings.port = ["127.0.0.1"], 0
settings.n_ctx, settings.n_parallel = 2048, 2
settings.cpuparams.n_threads = 1
settings.use_jinja, settings.warmup, settings.endpoint_slots = True, False, True
server = xllamacpp.Server(settings)
print(f"LISTENING {server.listening_address}", flush=True)
threading.Event().wait()
