"""Writes a GGUF file as a Hugging Face folder, dequantised, so that it can be tuned, pruned or compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.models.gguf.chat import write_chat_files
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.shape import read_shape
from hybrid_llm.backends.models.gguf.vocabulary import read_vocabulary, write_tokenizer
from hybrid_llm.backends.models.manifests import staging
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.hub_folder import HubFolder, refused, require_free, work_offline

_EACH: Final = 8.0
"""Bytes for each weight while they are dequantised and saved in single precision."""


def open_for_work(path: Path, scratch: Path) -> HubFolder:
    """The Hugging Face folder *path*, or the GGUF file *path* written as one in *scratch*, unless it is there already.

    Raises:
        ConfigError: as `HubFolder.open` and `import_for_work`.
    """
    if path.suffix != ".gguf":
        return HubFolder.open(path)
    out = scratch / "imported"
    return HubFolder.open(out) if out.is_dir() else import_for_work(path, out)


def import_for_work(path: Path, out: Path, *, chat_template: str | None = None) -> HubFolder:
    """Write the GGUF file *path* as the folder *out*, in single precision; it appears whole or not at all.

    transformers reads the weights; tokenizer and chat template are written as for the device.

    Raises:
        ConfigError: the file is broken or of an unknown kind, *out* exists, or a library is missing.
        NotEnoughMemory: the weights take more memory than is free.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: remove it or choose another folder", path=str(out))
    work_offline("accelerate", "gguf")
    with staging(out) as folder:
        with Gguf(path) as file:
            shape = read_shape(file)
            parameters = sum(tensor.rows * tensor.columns for tensor in file.tensors.values())
            require_free(parameters, _EACH, "importing", path)
            vocabulary = read_vocabulary(file, shape.vocab_size)
            _write_weights(path, folder)
            write_chat_files(file, vocabulary, folder, chat_template)
            write_tokenizer(vocabulary, folder)
        folder.replace(out)
    return HubFolder.open(out)


def _write_weights(path: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype="float32", local_files_only=True, trust_remote_code=False
        )

    model = refused(path, load)
    # The weights are plain numbers now: without this, saving is refused.
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(str(folder))
