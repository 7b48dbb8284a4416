"""The kinds of guardrails that a `hybrid.yaml` can name.

guardrails:
  - {kind: default}
  - {kind: denylist, words_file: words.txt, where: output}
  - {kind: encoder, model: toxicity/, labels: {toxic: 0.8}}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from hybrid_llm.core import fields
from hybrid_llm.core.fields import Found, Table, table
from hybrid_llm.core.protocols import Direction
from hybrid_llm.core.registry import Registry
from hybrid_llm.router.guardrails.rules import BOTH, GuardrailRule

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Guardrail


class GuardrailSpec(Protocol):
    """One entry under `guardrails:`, checked: a frozen dataclass with a field `name`, and one made by `key` per key."""

    @property
    def name(self) -> str:
        """The guardrail's name in errors and logs: its kind, unless the entry has a `name`."""
        ...

    def open(self) -> Guardrail:
        """Make the guardrail.

        Raises:
            ConfigError: a file or an option is unusable; the message says what to do.
        """
        ...


GUARDRAIL_KINDS: Final[Registry[type[GuardrailSpec]]] = Registry(
    "kind of guardrail",
    group="hybrid_llm.guardrails",
    builtin={
        "default": f"{__package__}.default:DefaultSpec",
        "denylist": f"{__package__}.denylist:DenylistSpec",
        "encoder": f"{__package__}.encoder:EncoderGuardrailSpec",
    },
)
"""Kind -> the dataclass that its entries are read into."""


def register_guardrail(kind: str, spec: type[GuardrailSpec]) -> None:
    """Let `kind: KIND` in `hybrid.yaml` mean the guardrail that *spec* opens; call it before the file is read.

    Raises:
        ConfigError: the kind is taken.
    """
    GUARDRAIL_KINDS.register(kind, spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSpec:
    """An entry under `guardrails`: what it opens, and where that is applied."""

    spec: GuardrailSpec
    where: frozenset[Direction]
    on_error: Literal["refuse", "allow"]

    def open(self) -> GuardrailRule:
        """Make the guardrail; ConfigError if it is unusable."""
        return GuardrailRule(guardrail=self.spec.open(), where=self.where, on_error=self.on_error)


_PLACED: Final = (
    fields.Key("name", fields.Text("a name"), "Its name in errors and logs; by default its kind.", default=""),
    fields.Key(
        "where",
        fields.Choice(
            {"both": BOTH, "input": frozenset({Direction.INPUT}), "output": frozenset({Direction.OUTPUT})},
            "a direction",
        ),
        "What it judges: requests, answers or both.",
        default=BOTH,
    ),
    fields.Key(
        "on_error",
        fields.Choice.of("refuse", "allow"),
        "What becomes of a text that it fails to judge.",
        default="refuse",
    ),
)


def guardrail_table(kind: str) -> Table:
    """The keys of a guardrail of *kind*: its own, and where it is applied."""
    spec: Any = GUARDRAIL_KINDS.get(kind)
    declared = table(spec, f"a guardrail of kind `{kind}`", make=lambda found: spec(name=found.name, **found.values))

    def make(found: Found) -> PlacedSpec:
        own = {name: value for name, value in found.values.items() if name not in ("name", "where", "on_error")}
        where, on_error = found.values["where"], found.values["on_error"]
        named = declared.make(replace(found, name=found.values["name"] or kind, values=own))
        return PlacedSpec(spec=named, where=where, on_error=on_error)

    return replace(declared, keys=(*declared.keys, *_PLACED), make=make)
