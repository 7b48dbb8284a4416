"""The door to Flower: opened with its telemetry and update check off, and with masks that cannot be searched for.

Flower expands the secrets of SecAgg+ into masks by a Mersenne Twister with a seed of 32 bits, all of which a server can
try. Here they are expanded by AES-256 in counter mode, on both sides.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

_TESTED: Final = "1.42."
_QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_MASKED: Final = (
    "flwr.client.mod.secure_aggregation.secaggplus_mod",
    "flwr.server.workflow.secure_aggregation.secaggplus_workflow",
)
"""The modules that expand secrets into masks."""
_EXPANDS: Final = "pseudo_rand_gen"


def open_flower() -> None:
    """Import Flower, quiet and with strong masks; call it before anything else of Flower is used.

    Raises:
        ConfigError: it is missing, or of a version that this was not tested with.
    """
    os.environ.update(_QUIET)
    try:
        version = metadata.version("flwr")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"federated tuning needs Flower: {install_hint('federated')}") from error
    if not version.startswith(_TESTED):
        raise ConfigError(
            f"Flower {version} is not {_TESTED}x, with which this was tested: {install_hint('federated')}"
        )
    vars(import_module("flwr.supercore.telemetry"))["FLWR_TELEMETRY_ENABLED"] = "0"  # it may have been imported before
    import_module("flwr.supercore.logger").FLOWER_LOGGER.setLevel("WARNING")
    identity = import_module("flwr.supercore.task_identity").TaskIdentity
    identity.run_id = identity.node_id = identity.task_id = 1  # its own programs set them; messages need them
    for name in _MASKED:
        module = import_module(name)
        if not hasattr(module, _EXPANDS):
            raise ConfigError(f"Flower {version} makes its masks elsewhere: {install_hint('federated')}")
        setattr(module, _EXPANDS, masks)


def masks(seed: bytes, modulus: int, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.int64]]:
    """Arrays of *shapes* with numbers from 0 to *modulus* - 1, which is a power of two up to 2**32, from a secret."""
    key = hashlib.sha256(b"hybrid-llm SecAgg+ mask" + seed).digest()
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def mask(shape: tuple[int, ...]) -> Any:
        words = np.frombuffer(stream.update(bytes(4 * int(np.prod(shape, dtype=np.int64)))), dtype="<u4")
        return (words.astype(np.int64) & (modulus - 1)).reshape(shape)

    return [mask(shape) for shape in shapes]
