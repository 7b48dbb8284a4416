"""Starts the worker in vLLM's Python: `python -I run.py PACKAGE`, where PACKAGE is the `__init__.py` of hybrid_llm.

Our package alone is found there, by its place. To add its folder to the path would bring the other packages of the
node's environment, such as its torch, before vLLM's. What vLLM spawns reads this file too, as `__mp_main__`.
"""

import json
import struct
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_LEAST = (3, 11)


def main() -> None:
    """Find our package, and run its worker."""
    if sys.version_info < _LEAST:
        return refuse(f"{sys.executable} is Python {sys.version.split()[0]}; --engine-python needs 3.11 or newer")
    find_package(Path(sys.argv[1]))
    from hybrid_llm.backends.node.vllm.worker import main as work

    return work()


def find_package(init: Path) -> None:
    """Let `hybrid_llm` be imported, of which *init* is the `__init__.py`."""
    spec = spec_from_file_location("hybrid_llm", init, submodule_search_locations=[str(init.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["hybrid_llm"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


def refuse(message: str) -> None:
    """Send `ipc.Refused`, whose module cannot be imported here."""
    body = json.dumps(["Refused", {"message": message, "path": None, "reason": ""}]).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(body)) + body)


if __name__ == "__main__":
    main()
