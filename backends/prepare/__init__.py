"""Making model folders: convert, check, describe."""

from hybrid_llm.backends.prepare.convert import Precision, Progress, convert
from hybrid_llm.backends.prepare.manifests import verify_manifest, write_manifest
from hybrid_llm.backends.prepare.parity import Floor, Parity
from hybrid_llm.backends.prepare.shapes import Shape, random_model

__all__ = [
    "Floor",
    "Parity",
    "Precision",
    "Progress",
    "Shape",
    "convert",
    "random_model",
    "verify_manifest",
    "write_manifest",
]
