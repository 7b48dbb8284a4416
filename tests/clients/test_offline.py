"""No integration reaches for a network that the user did not name; the libraries are here alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.offline.test_parts import NEIGHBOURS, attempts


@pytest.mark.parametrize("part", NEIGHBOURS)
def test_an_integration_reaches_for_no_network(part: str, tmp_path: Path) -> None:
    pytest.importorskip(NEIGHBOURS[part], reason="make clients")
    assert attempts(part, tmp_path) == []
