"""Folders of LoRA adapters, as peft saves them: which model one belongs to, and adding it to the weights of that."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import file_digest, sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

if TYPE_CHECKING:
    from hybrid_llm.backends.signing.trust import Trust

ADAPTER_NAME: Final = "adapter_config.json"
"""What makes a folder an adapter."""
BASE_KEY: Final = "base_model_name_or_path"
"""The key there that names its base."""
BASE_NAME: Final = "base.json"
"""Beside an adapter that was tuned here: the path and digest of the weights that it belongs to."""
WEIGHTS_NAME: Final = "adapter_model.safetensors"
"""Its weights."""


def base_of(folder: Path) -> Path | None:
    """The folder of the model that the adapter in *folder* names as its base; None if *folder* is no adapter.

    Raises:
        ConfigError: the adapter cannot be read, or its base is no folder here.
    """
    path = folder / ADAPTER_NAME
    if not path.is_file():
        return None
    try:
        named = read_json(path).get(BASE_KEY)
    except (OSError, ValueError, AttributeError) as error:
        message = f"{path} cannot be read ({type(error).__name__}): copy or tune the adapter again"
        raise ConfigError(message, path=str(path)) from None
    base = Path(str(named or ""))
    if not named or not (base / "config.json").is_file():
        message = f"{folder} is an adapter of {named or 'a model without a name'}, which is no model folder here"
        remedy = f"name its base, or correct {BASE_KEY} in {ADAPTER_NAME}"
        raise ConfigError(f"{message}: {remedy}", path=str(folder))
    return base


def verify_signatures(folder: Path, trust: Trust, beside: Iterable[Path] = ()) -> None:
    """Check the signature of the model in *folder*, and those of the adapters *beside* it.

    Of an adapter in *folder*, that of its base is checked too, whose weights are loaded.

    Raises:
        UntrustedModel: one of them is not what a trusted signer signed. ConfigError: as `base_of`.
    """
    from hybrid_llm.backends.signing.verify import verify_folder

    verify_folder(folder, trust)
    if base := base_of(folder):
        verify_folder(base, trust)
    for adapter in beside:
        verify_folder(adapter, trust)


def weights_digest(folder: Path) -> str:
    """The SHA-256 of the weights in *folder*: of one file its own, of several that of their digests."""
    digests = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def check_base(adapter: Path, base: Path) -> None:
    """Check that *base* has the weights that *adapter* was trained on, if it says which.

    Raises:
        ConfigError: they are others, or the note cannot be read.
    """
    noted = adapter / BASE_NAME
    if not noted.exists():
        return
    try:
        digest = read_json(noted).get("sha256")
    except (OSError, ValueError, AttributeError) as error:
        message = f"{noted} cannot be read ({type(error).__name__}): copy or tune the adapter again"
        raise ConfigError(message, path=str(noted)) from None
    if digest != weights_digest(base):
        message = f"{adapter} was trained on other weights than those of {base}: name the base that it belongs to"
        raise ConfigError(message, path=str(adapter))


def adapter_weights(folder: Path) -> Path:
    """The file with the weights of the adapter in *folder*.

    Raises:
        ConfigError: there is none.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        message = f"{folder} has no {WEIGHTS_NAME}: weights in another form are not loaded, since they can run code"
        raise ConfigError(message, path=str(folder))
    return path


def with_adapter(model: Any, folder: Path) -> Any:
    """*model*, with the adapter in *folder* beside its weights.

    Raises:
        ConfigError: peft is not installed, or the adapter does not fit the model.
    """
    if find_spec("peft") is None:
        raise ConfigError(f"{folder} is an adapter, which needs peft: pip install peft", path=str(folder))
    adapter_weights(folder)
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(folder), local_files_only=True)
    except Exception as error:  # peft and torch raise errors of many kinds for shapes and names that differ
        message = f"the adapter in {folder} does not fit its base ({type(error).__name__}): name the right base"
        raise ConfigError(message, path=str(folder)) from error


def merge_adapter(model: Any, folder: Path) -> Any:
    """*model*, with the adapter in *folder* added to its weights.

    Raises:
        ConfigError: as `with_adapter`.
    """
    return with_adapter(model, folder).merge_and_unload()
