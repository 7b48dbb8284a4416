"""Opens Hugging Face folders for evaluation: in float32, offline, and only if every weight is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.libraries import needs


def open_folder(folder: Path, auto: str, what: str) -> tuple[Any, Any]:
    """The model of *folder*, by the class *auto* of transformers, and its tokenizer. Nothing is downloaded.

    Raises:
        ConfigError: it is no *what*, such as "decoder", that transformers can read, or it lacks weights, which
            transformers would replace by random ones.
    """
    with needs("prepare"):
        import transformers
    model_class = getattr(transformers, auto)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with quiet():
            model, loaded = model_class.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype="float32",
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        message = f"{folder} is no {what} that transformers can read ({type(error).__name__}): {first}"
        raise ConfigError(message, path=str(folder)) from error
    if missing := loaded["missing_keys"]:
        message = f"{folder} is no {what}: {len(missing)} of its weights are missing"
        raise ConfigError(
            f"{message}; a model without a head is tuned first (`hybrid-llm models tune`)", path=str(folder)
        )
    return model.eval(), tokenizer


class quiet:  # noqa: N801  # reads as a statement
    """Keeps transformers from printing reports and bars in this block."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity, self._bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
        if self._bars:
            logging.enable_progress_bar()
