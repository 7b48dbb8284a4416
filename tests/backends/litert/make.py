"""Makes `models.zip` again: trains the encoders of `tests.encoders`, and converts them to LiteRT."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from hybrid_llm.backends.models import encoder_litert
from hybrid_llm.backends.models.encoders import convert_encoder
from tests.encoders import trained

MODELS = Path(__file__).parent / "models.zip"


def main() -> None:
    """Write the file."""
    encoder_litert.LENGTHS = (8, 16)  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(MODELS, "w") as made:
        for name, tokens in (("texts", False), ("tags", True)):
            source, out = Path(scratch) / f"{name}-hf", Path(scratch) / name
            trained(source, tokens=tokens)
            convert_encoder(source, out, to="litert", license="Apache-2.0", name=f"litert-{name}")
            for file in sorted(out.iterdir()):
                entry = zipfile.ZipInfo(f"{name}/{file.name}")
                made.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main()
