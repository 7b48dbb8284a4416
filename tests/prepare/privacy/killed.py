"""A private tuning that a test kills: MODEL DATA FOLDER."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.prepare.privacy.test_tune_private import STEP, run


def _slowly(what: str, share: float) -> None:
    if share > 0.3:
        time.sleep(0.5)


if __name__ == "__main__":
    model, data, folder = map(Path, sys.argv[1:])
    run(replace(STEP, randomness="secure", every=2), model, data, folder, progress=_slowly)
