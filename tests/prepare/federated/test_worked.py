"""The worked recipe of federated tuning runs in a short form."""

from pathlib import Path

import pytest

from tests.prepare.recipe.short import RECIPES, check_short_form, make_inputs

pytest.importorskip("flwr", reason="Flower is installed by `make federated`, apart from the other tests")


def test_three_clients_one_alone_and_all_data_in_one_place(tmp_path: Path) -> None:
    (path,) = (each for each in RECIPES if each.stem == "federated")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    check_short_form(path, make_inputs(inputs), tmp_path / "out")
