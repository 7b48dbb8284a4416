"""What recall is measured on besides the modules `_tuning*`: to be filled by someone who has not read the detectors.

A kind is measured once `WORDS` has its labels, sentences and questions (see `_cases.Words`) and `LAYOUTS` has at least
one layout. The texts of a layout are templates, see `_cases.templates`. `VALUES` may have a generator for a kind, which
replaces that of `_cases.KINDS`. Whoever tunes a detector leaves this module unread. Once its misses were looked at it
becomes one more module to tune on, and this one begins anew, empty.

    WORDS = {"password": Words(("Wi-Fi key",), ("The key of the guest network is {value}.",), ("And the Wi-Fi key?",))}
    LAYOUTS = {
        "prose": templates("{sentence}", "Translate this:\\n\\n{sentence}"),
        "JSON": templates('{{"id": {id}, "{label:camel}": "{value:json}"}}'),
        "question before": templates("{question}\\n---\\n{value}"),
    }
    VALUES = {"password": lambda rng: f"{rng.choice(COLOURS)}-{rng.randint(100, 999)}"}
"""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks._cases import Layout, Words

WORDS: dict[str, Words] = {}
LAYOUTS: dict[str, Layout] = {}
VALUES: dict[str, Callable[[random.Random], str]] = {}
