"""The card of a model as `README.md`: metadata as Hugging Face reads it, then what people want to know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.recipe.licences import hub_identifier

_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
}
"""The end of an architecture's name -> the task, by the Hub's name."""


def model_page(card: Mapping[str, Any], folder: Path) -> str:
    """The text of `README.md` for *card*; *folder* is that of the model."""
    import yaml

    head = yaml.safe_dump(_metadata(card, folder), sort_keys=False, allow_unicode=True)
    body = "\n".join(_body(card)).replace("<", "&lt;")  # labels and licences are the words of others: no HTML
    return f"---\n{head}---\n\n{body}\n"


def _metadata(card: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    licence, task = hub_identifier(card["licence"]), _task(folder)
    bases = [name for one in card["lineage"] if one["makes"] == "model" and not one["before"] for name in _origin(one)]
    data = [one["step"] for one in card["lineage"] if one["makes"] == "data"]
    metrics = dict.fromkeys(name for found in _measured(card).values() for name in found)
    found = {
        "license": licence,
        "license_name": card["licence"] if licence == "other" else None,
        "library_name": "transformers" if task and not (folder / "manifest.json").is_file() else None,
        "pipeline_tag": task,
        "base_model": bases[0] if len(bases) == 1 else bases,
        "datasets": data,
        "metrics": list(metrics),
        "tags": ["hybrid-llm"],
        "model-index": _index(card, task),
    }
    return {name: value for name, value in found.items() if value}


def _origin(entry: Mapping[str, Any]) -> Iterator[str]:
    source = entry["options"].get("source")
    if isinstance(source, str):
        yield source.removeprefix("hf:")


def _measured(card: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Each report about the model, or what the step itself has measured of it."""
    return dict(card["evaluations"]) or {card["step"]: card["lineage"][-1]["metrics"]}


def _index(card: Mapping[str, Any], task: str | None) -> list[dict[str, Any]]:
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": report, "type": report},
            "metrics": [{"type": name, "value": value} for name, value in metrics.items()],
        }
        for report, metrics in card["evaluations"].items()
        if metrics
    ]
    return [{"name": card["name"], "results": results}] if results and task else []


def _task(folder: Path) -> str | None:
    try:
        names = read_json(folder / "config.json").get("architectures") or [""]
    except (OSError, ValueError, AttributeError):
        return None
    return next((task for end, task in _TASKS.items() if str(names[0]).endswith(end)), None)


def _body(card: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {card['name']}\n"
    if card["about"]:
        yield f"{card['about']}\n"
    yield f"Made by hybrid-llm. Licence: **{card['licence']}**, the most restrictive of what it is made of."
    for refusal in card["refusals"]:
        yield f"\n**Not to be published**: {refusal}"
    yield from _table("Licences", ("of", "licence"), card["licences"].items())
    yield from _figures(card)
    for section, parts in card["sections"].items():
        yield f"\n## {section.capitalize()}\n"
        for step, value in parts.items():
            yield from _section(step, value)
    yield from _lineage(card)
    energy = card["energy"]
    yield f"\n## Cost\n\n{card['seconds']:,.0f} s, {energy['joules']:,.0f} J ({energy['how']}: {energy['by']}).\n"
    yield from _table("Versions", ("library", "version"), card["libraries"].items())


def _figures(card: Mapping[str, Any]) -> Iterator[str]:
    """Each metric of each step, before and after it."""
    rows = [
        (one["step"], name, _shown(one["before"].get(name)), _shown(value))
        for one in card["lineage"]
        for name, value in one["metrics"].items()
    ]
    rows += [
        (step, name, "", _shown(value)) for step, found in card["evaluations"].items() for name, value in found.items()
    ]
    yield from _table("Figures", ("step", "metric", "before", "after"), rows)


def _lineage(card: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (one["step"], one["kind"], one["seed"], f"{one['cost']['seconds']:,.1f}", one["digest"][:16])
        for one in card["lineage"]
    ]
    yield from _table("Steps", ("step", "kind", "seed", "seconds", "SHA-256"), rows)
    for one in card["lineage"]:
        options = {name: value for name, value in one["options"].items() if value not in (None, "", [], {})}
        yield from _section(one["step"], options)


def _section(step: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"- `{step}`: {_shown(value)}"
        return
    yield f"- `{step}`: {_listed(value)}"


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(item)}" for name, item in value.items() if item not in (None, "", [], {}))


def _table(title: str, columns: tuple[str, ...], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    listed = [" | ".join(_cell(cell) for cell in row) for row in rows]
    if listed:
        yield f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
        yield from (f"| {row} |" for row in listed)


def _cell(value: object) -> str:
    return _shown(value).replace("|", "\\|")


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return " ".join(str(value).split())
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case Mapping():
            return f"({_listed(value)})"
        case list() | tuple():
            return f"({', '.join(map(_shown, value))})" if value else "none"
    return json.dumps(value, ensure_ascii=False)
