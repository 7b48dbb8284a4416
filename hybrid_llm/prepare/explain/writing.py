"""Writes an explanation into a folder that only its owner can read: a page, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.prepare.explain.page import page
from hybrid_llm.prepare.explain.results import Explanation
from hybrid_llm.prepare.explain.routing import Routed

PAGE_NAME: Final = "explanation.html"
RESULTS_NAME: Final = "results.json"


def document(explanation: Explanation | None, routed: Routed | None) -> dict[str, Any]:
    """Both parts as plain data; null where there is none."""
    return {
        "version": 1,
        "explanation": None if explanation is None else explanation.to_dict(),
        "route": None if routed is None else routed.to_dict(),
    }


def write(out: Path, explanation: Explanation | None, routed: Routed | None, text: str) -> None:
    """Write page and JSON into the folder *out*, with mode 0600; files of an earlier run are replaced.

    Raises:
        ConfigError: they cannot be written.
    """
    files = {
        PAGE_NAME: page(explanation, routed, text),
        RESULTS_NAME: json.dumps(document(explanation, routed), indent=2, ensure_ascii=False) + "\n",
    }
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            replace_text(out / name, content, mode=0o600)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}: choose another --out", path=str(out)) from None
