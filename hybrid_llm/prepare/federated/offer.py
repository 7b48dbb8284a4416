"""What a server offers to its clients before the first round: everything that they need to agree to take part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import parse_json

Arrays = list[NDArray[np.float32]]
"""The weights that are tuned, or an update of them, in the order of the offer."""
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """How the model is tuned, the same for all clients.

    Attributes:
        base: SHA-256 over the weights of the base model, which each client has.
        tensors: name and shape of each weight that is tuned; nothing else leaves a client.
        rounds: how often updates are averaged.
        epochs: passes of a client over its data in a round.
        secure: whether the server learns only the sum of the updates.
        threshold: with secure aggregation, how many clients together can take off a mask.
        update_norm: the most that an update moves the weights, by its L2 norm; 0 is no limit.
    """

    base: str
    labels: tuple[str, ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    rounds: int
    epochs: float
    batch: int
    learning_rate: float
    max_length: int
    lora_rank: int
    lora_targets: tuple[str, ...]
    secure: bool
    threshold: int
    update_norm: float

    def to_json(self) -> bytes:
        """The offer as it is sent."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, text: bytes) -> Offer:
        """The offer that was sent. ConfigError if it is of another version."""
        try:
            values: dict[str, Any] = parse_json(text)
            values["labels"], values["lora_targets"] = tuple(values["labels"]), tuple(values["lora_targets"])
            values["tensors"] = tuple((str(name), tuple(map(int, shape))) for name, shape in values["tensors"])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError("the server's offer cannot be read: install the same version on both sides") from error

    def check(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Refuse arrays that are not those of the offer. ConfigError if they are not."""
        shapes = [each.shape for each in arrays]
        if shapes != [shape for _, shape in self.tensors]:
            raise ConfigError("weights of other shapes than offered were refused: give all clients the same base model")


def base_digest(folder: Path) -> str:
    """SHA-256 over the weights in *folder*. ConfigError if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} has no weights (*.safetensors)", path=str(folder))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
