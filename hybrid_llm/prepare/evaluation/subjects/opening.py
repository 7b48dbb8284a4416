"""Opens what the command line or a recipe names: `[NAME=]PATH[:BACKEND][@THRESHOLD]`."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.digests import folder_digest, model_digest
from hybrid_llm.backends.edge.folder import MANIFEST_NAME
from hybrid_llm.backends.edge.spec import EdgeConfig
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.core.protocols import Backend
from hybrid_llm.prepare.evaluation.decoders import open_scorer
from hybrid_llm.prepare.evaluation.subjects.asked import Asked
from hybrid_llm.prepare.evaluation.subjects.subject import About, Subject
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import load_config
from hybrid_llm.router.config.config import Config

_WRITTEN: Final = re.compile(
    r"(?:(?P<name>[\w.-]+)=)?(?P<path>.+?\.ya?ml)(?::(?P<backend>[\w.-]+))?(?:@(?P<threshold>[\d.]+))?"
    r"|(?:(?P<folder_name>[\w.-]+)=)?(?P<folder>.+)"
)
_ALONE: Final = "model"
"""The backend that a folder becomes: a subject may have any name, such as `device`, which no backend may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A subject as it is written, checked.

    Attributes:
        name: in the report.
        path: a model folder, or a `hybrid.yaml`.
        backend: the only one of the file that may answer.
        threshold: below this probability of a label, the next backend is asked: a cascade.
    """

    name: str
    path: Path
    backend: str = ""
    threshold: float | None = None


def parse_subject(text: str) -> Named:
    """The subject that *text* names.

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError("name a model folder or a hybrid.yaml: [NAME=]PATH, [NAME=]FILE:BACKEND or FILE@THRESHOLD")
    if found["folder"]:
        path = Path(found["folder"])
        return Named(name=found["folder_name"] or _called(path.resolve()), path=path)
    threshold = None if found["threshold"] is None else float(found["threshold"])
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError("a threshold is a probability above 0 and at most 1, as in hybrid.yaml@0.8")
    default = found["backend"] or ("policy" if threshold is None else "cascade")
    return Named(
        name=found["name"] or default,
        path=Path(found["path"]),
        backend=found["backend"] or "",
        threshold=threshold,
    )


def _called(folder: Path) -> str:
    """The name of a model's folder; in the store of models it is `NAME/model`."""
    return folder.parent.name if folder.name == "model" else folder.name


def require_there(named: Named) -> None:
    """Check that its folder or file exists; ConfigError."""
    if not named.path.exists():
        raise ConfigError(f"{named.path} does not exist: name a model folder or a hybrid.yaml", path=str(named.path))


def open_subject(named: Named) -> Subject:
    """Open it; nothing is downloaded.

    Raises:
        ConfigError: there is no such folder, file or backend, or it is unusable.
    """
    require_there(named)
    if named.path.is_file():
        return _of_config(named, load_config(named.path))
    return _of_folder(named)


def _of_config(named: Named, config: Config) -> Subject:
    specs = {spec.name: spec for spec in config.backends}
    if named.backend and named.backend not in specs:
        message = f"{named.path} has no backend `{named.backend}`; it has: {', '.join(specs)}"
        raise ConfigError(message, path=str(named.path))
    only = specs.get(named.backend) if named.backend else None
    with ExitStack() as opened:
        client = opened.enter_context(HybridLLM.from_config(named.path, serve_metrics=False))
        about = About(
            what=_words(named),
            backend=named.backend,
            digests={name: model_digest(spec) for name, spec in specs.items() if only is None or name == named.backend},
            policy="" if only is not None else client.policy.digest,
        )
        scored = only.folder if isinstance(only, EdgeConfig) else None
        subject = Asked(
            named.name,
            about,
            client,
            backend=named.backend,
            threshold=named.threshold,
            open_scorer=None if scored is None else lambda: open_scorer(scored),
        )
        opened.pop_all()
    return subject


def _words(named: Named) -> str:
    if named.backend:
        return f"the backend `{named.backend}` of {named.path.name}"
    cascade = "" if named.threshold is None else f", with labels below {named.threshold:g} asked again"
    return f"the policy of {named.path.name}{cascade}"


def _of_folder(named: Named) -> Subject:
    folder = named.path
    if (folder / MANIFEST_NAME).is_file() and (folder / "genai_config.json").is_file():
        return _of_device(named, {"kind": "onnx", "model": str(folder), "load": "eager", "reuse_prefixes": False})
    if (folder / "model.onnx").is_file():
        return _of_device(named, {"kind": "encoder", "model": str(folder), "load": "eager"})
    if (folder / "model.tflite").is_file():
        return _of_device(named, {"kind": "litert", "model": str(folder), "load": "eager"})
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no model folder: it has neither {MANIFEST_NAME} nor config.json")
    about = About(what=f"the model of transformers in {folder.name}", backend=named.name, digests=_digests(named))
    if _is_classifier(folder):
        from hybrid_llm.prepare.evaluation.classifiers import open_classifier
        from hybrid_llm.prepare.evaluation.subjects.classifier import Classifying

        return Classifying(named.name, about, open_classifier(folder))
    from hybrid_llm.prepare.evaluation.subjects.torch_backend import TorchBackend

    backend = TorchBackend(_ALONE, folder, revision=about.digests[named.name])
    return _of_backend(named, about, backend)


def _of_device(named: Named, entry: dict[str, Any]) -> Subject:
    config = {"version": 1, "backends": {_ALONE: entry}}
    client = HybridLLM.from_config(config, serve_metrics=False)
    about = About(what=f"the model of the device in {named.path.name}", backend=named.name, digests=_digests(named))
    is_decoder = entry["kind"] == "onnx"
    opener = (lambda: open_scorer(named.path)) if is_decoder else None
    return Asked(named.name, about, client, backend=_ALONE, open_scorer=opener)


def _of_backend(named: Named, about: About, backend: Any) -> Subject:
    from hybrid_llm.policies import builtin_policy

    made: Backend = backend
    policy = builtin_policy("balanced", backends={_ALONE: made.location})
    return Asked(named.name, about, HybridLLM([made], policy), backend=_ALONE, open_scorer=lambda: backend.scorer)


def _is_classifier(folder: Path) -> bool:
    try:
        config = read_json(folder / "config.json")
        return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    except (OSError, ValueError, AttributeError) as error:
        message = f"{folder / 'config.json'} cannot be read ({type(error).__name__})"
        raise ConfigError(message, path=str(folder)) from None


def _digests(named: Named) -> dict[str, str]:
    return {named.name: folder_digest(named.path)}
