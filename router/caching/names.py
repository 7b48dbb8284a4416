"""The name under which the answer to a request is stored: a MAC, from which nobody without the key can guess a text."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Final

from hybrid_llm.core.request import Request, Sampling

_SAMPLING: Final = tuple(f.name for f in fields(Sampling) if f.name != "stop")


def entry_name(request: Request, key: bytes) -> bytes:
    """32 bytes that distinguish requests: texts, roles, tags, limits, options, tenant; not the id, nor the time.

    A keyed BLAKE2b (RFC 7693): with a plain hash, whoever reads the names could try texts from a dictionary.
    """
    mac = hashlib.blake2b(key=key, digest_size=32)
    sampling = [repr(getattr(request.sampling, name)) for name in _SAMPLING]
    names = [str(len(request.privacy)), request.task, repr(request.tenant), str(request.max_tokens)]
    names.append(repr(request.logprobs))
    for part in (*sampling, *names, request.shape(), *sorted(request.privacy), *request.visible_text()):
        data = part.encode("utf-8", "surrogatepass")
        mac.update(len(data).to_bytes(8, "big"))
        mac.update(data)
    return mac.digest()
