"""The frame of the pages that we write: HTML without scripts, for screens of any width, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser lets the page do (Content Security Policy Level 3): use its own style, and load nothing."""


def document(title: str, body: Iterable[str], *, style: str) -> str:
    """A whole page.

    Args:
        title: As text.
        body: Lines of HTML.
        style: CSS.
    """
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body>",
    )
    return "\n".join([*head, *body, "</body></html>\n"])
