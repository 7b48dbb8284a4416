"""The steps `sign`, `publish` and `pull`: a finished model goes out by a registry, and comes back as a source."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hybrid_llm.backends.signing.trust import TRUST, Trust
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import File, Found, ListOf, Table, Text, key, one_of, table
from hybrid_llm.prepare.step import MODEL, Input, Makes, Outcome, RegistryUrl, Work

if TYPE_CHECKING:
    from hybrid_llm.backends.models.registry import ModelRegistry, Version

RECEIPT_NAME: Final = "published.json"
"""What a step of the kind `publish` leaves: the version, where it is, and which aliases were moved."""
_REFERENCE: Final = re.compile(r"(?P<name>[^@]+)(@(?P<which>.+))?")
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_URL: Final = re.compile(r"(?:s3|gs|gcs|az|abfs|abfss|file)://.+")


def _remote(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError(f"`{text}` is no URL of a registry")
    return text


def _model_name(text: str) -> str:
    from hybrid_llm.backends.models.registry.records import check_model

    try:
        return check_model(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _reference(text: str) -> str:
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is not NAME, NAME@ALIAS or NAME@VERSION")
    _model_name(match["name"])
    return text


NAME: Final = Text("a name in a registry", convert=_model_name)
REGISTRY: Final = one_of(Text("s3://BUCKET/FOLDER, gs://..., az://..., file:///FOLDER", convert=_remote), File())
_REGISTRY_ABOUT: Final = "Where the registry is: s3://BUCKET/FOLDER, gs://..., az://..., or a folder."
_KEY_ABOUT: Final = "The key of a registry that is encrypted."


def _registry_table(step: type, kind: str) -> Table:
    """The keys of *step*, whose `registry` is read as a URL: a folder's content would be no part of what it does."""

    def make(found: Found) -> Any:
        return step(**{**found.values, "registry": RegistryUrl(str(found.values["registry"]))})

    return table(step, f"a step of kind `{kind}`", make=make)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Signs a copy of a finished model: weights, manifest, card and page.

    The signature has the format of OpenSSF model-signing. It is made when all reports about the model are there, and
    not for a model that misses a floor or ceiling.
    """

    makes: ClassVar[Makes] = Makes.MODEL
    sealed: ClassVar[bool] = True
    releases: ClassVar[bool] = True

    model: Input = key(MODEL, "The model to sign.")
    key_file: Path = key(File(), "The private key, PEM, ECDSA.", name="key")
    cert: Path | None = key(File(), "Its certificate, PEM; without it, a plain key.", default=None)
    chain: tuple[Path, ...] = key(ListOf(File()), "Certificates between that one and the authority.", default=())
    name: str = key(Text(), "The model's name in the signature; default: that of the step that made it.", default="")

    def check(self) -> None:
        """Check that the key can sign, before anything else runs.

        Raises:
            ConfigError: the key or a certificate is unusable, or they are of two keys.
        """
        from hybrid_llm.backends.signing.sign import check_signer

        check_signer(self.key_file, self.cert, self.chain)

    def run(self, work: Work) -> Outcome:
        """Copy the model, and sign the copy.

        Raises:
            ConfigError: the folder has a link, or a name that another system could not have; or as `check`.
        """
        from hybrid_llm.backends.signing.sign import sign_folder

        source = work.path(self.model)
        size = _copy(source, work)
        name = self.name or Path(self.model.text).name
        work.progress("signing", 1.0)
        sign_folder(work.out, self.key_file, self.cert, name=name, chain=self.chain)
        return Outcome(metrics={"size_mb": size / 1e6}, card={"signature": {"name": name}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Publishes a finished model as a version in a registry, and lets aliases point to it.

    The version is the hash of the content, the card too: the same folder is never published twice. A model that misses
    a floor or ceiling is not published, nor one whose signature does not fit.
    """

    makes: ClassVar[Makes] = Makes.RECEIPT
    releases: ClassVar[bool] = True

    model: Input = key(MODEL, "The model, such as a step of kind sign.")
    name: str = key(NAME, "The model's name in the registry.")
    registry: RegistryUrl = key(REGISTRY, _REGISTRY_ABOUT)
    alias: tuple[str, ...] = key(
        ListOf(NAME, single=True), "Aliases that point to the version then, such as `canary`.", default=()
    )
    key_file: Path | None = key(File(), _KEY_ABOUT, default=None)
    trust: Trust | None = key(TRUST, "Whose signature the model must have; default: any, or none.", default=None)

    @classmethod
    def table(cls) -> Table:
        """The keys."""
        return _registry_table(cls, "publish")

    @property
    def network(self) -> bool:
        """Whether the registry is not on this machine."""
        return _is_remote(self.registry)

    def run(self, work: Work) -> Outcome:
        """Upload what the registry lacks, then move the aliases; after a kill, all of it can be done again.

        Raises:
            ConfigError: the folder may not be published, or its signature is of other files.
            UntrustedModel: the signature is not one that is asked for.
            RegistryError: the registry cannot be used. AliasMoved: another process moved an alias meanwhile.
        """
        from hybrid_llm.backends.models.registry import publish
        from hybrid_llm.backends.signing.verify import verify_folder

        folder = work.path(self.model)
        if self.trust is not None:
            verify_folder(folder, self.trust)
        registry = _open(self.registry, self.key_file, create=True)
        done = publish(registry, folder, self.name, report=work.progress)
        for alias in self.alias:
            registry.promote(self.name, done.version.digest, alias)
        receipt = {"registry": str(self.registry), **_named(done.version), "aliases": list(self.alias)}
        (work.out / RECEIPT_NAME).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
        metrics = {"size_mb": done.version.manifest.total_bytes / 1e6, "sent_mb": done.sent_bytes / 1e6}
        return Outcome(metrics=metrics, card={"published": receipt})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Brings a version of a model from a registry, for the steps that read it.

    A version by all its 64 digits is looked for once. What an alias points to, or which version is the newest, is asked
    at each run: the step is up to date as long as that is the version that it has.
    """

    makes: ClassVar[Makes] = Makes.MODEL
    sealed: ClassVar[bool] = True

    model: str = key(
        Text("NAME, NAME@ALIAS or NAME@VERSION", convert=_reference),
        "The model, by an alias or the digits of a version; default: the newest version.",
        examples=("sentiment@prod",),
    )
    registry: RegistryUrl = key(REGISTRY, _REGISTRY_ABOUT)
    key_file: Path | None = key(File(), _KEY_ABOUT, default=None)
    trust: Trust | None = key(TRUST, "Whose signature the model must have; default: any, or none.", default=None)

    @classmethod
    def table(cls) -> Table:
        """The keys."""
        return _registry_table(cls, "pull")

    @property
    def network(self) -> bool:
        """Whether the registry is not on this machine."""
        return _is_remote(self.registry)

    def depends(self) -> Mapping[str, str]:
        """The version that the name means now; of one with all its digits, itself, without asking anybody.

        Raises:
            NoSuchVersion, RegistryError: it is not there, or the registry cannot be asked.
        """
        name, which = self._named()
        if not _DIGEST.fullmatch(which):
            which = _open(self.registry, self.key_file).resolve(name, which).digest
        return {self._what: which}

    def run(self, work: Work) -> Outcome:
        """Fetch the version that `depends` found, verified piece by piece; after a kill, what is there stays.

        Raises:
            UntrustedModel: no signature is accepted. SecurityError: the registry holds other bytes than it should.
            NoSuchVersion, RegistryError: it cannot be fetched. NoSpace: the disk is full.
        """
        from hybrid_llm.backends.models.registry import pull

        name, _ = self._named()
        registry = _open(self.registry, self.key_file)
        version = registry.version(name, (work.depends or self.depends())[self._what])
        done = pull(registry, version, work.scratch / "pulled", trust=self.trust, report=work.progress)
        work.out.rmdir()
        done.folder.replace(work.out)
        about = version.manifest.about
        metrics = {"size_mb": version.manifest.total_bytes / 1e6, "received_mb": done.received_bytes / 1e6}
        source = {"registry": str(self.registry), **_named(version)}
        return Outcome(metrics=metrics, card={"licence": about.licence, "source": source})

    def _named(self) -> tuple[str, str]:
        match = _REFERENCE.fullmatch(self.model)
        assert match is not None, "it was checked when it was read"
        return match["name"], match["which"] or ""

    @property
    def _what(self) -> str:
        return f"the version that `{self.model}` means"


def _open(registry: RegistryUrl, key_file: Path | None, *, create: bool = False) -> ModelRegistry:
    from hybrid_llm.backends.models.registry import ModelRegistry

    return ModelRegistry.open(registry.url, key_file=key_file, create=create)


def _is_remote(registry: RegistryUrl) -> bool:
    return "://" in registry.url and not registry.url.startswith("file:")


def _named(version: Version) -> dict[str, str]:
    return {"name": version.name, "version": version.digest}


def _copy(source: Path, work: Work) -> int:
    """Copy the files of a model, its old signature left out; returns their bytes."""
    from hybrid_llm.backends.models.registry.describe import model_files
    from hybrid_llm.backends.models.space import require_space

    files = dict(model_files(source))
    size = sum(path.stat().st_size for path in files.values())
    require_space(work.out, size, "the signed copy")
    work.progress("copying", 0.0)
    for name, path in files.items():
        target = work.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return size
