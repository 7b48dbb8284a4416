"""Membership inference: figures equal to a reference, an overfitted model given away, a private one not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.privacy.attacks import area, attack, confidence, true_positives
from hybrid_llm.prepare.privacy.audit import AuditPrivacy
from hybrid_llm.prepare.privacy.clipping import losses
from hybrid_llm.prepare.privacy.units import Encoding, examples
from hybrid_llm.prepare.step import Input, Outcome, Work
from tests.prepare.privacy import tiny
from tests.prepare.privacy.test_tune_private import STEP
from tests.prepare.privacy.test_tune_private import run as tune_privately

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

SCORES = st.lists(st.integers(-9, 9), min_size=20, max_size=60).map(lambda each: np.array(each, dtype=float))


@given(members=SCORES, others=SCORES)
def test_the_area_is_that_of_scikit_learn(members: Any, others: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    gold = [1] * len(members) + [0] * len(others)
    assert area(members, others) == pytest.approx(metrics.roc_auc_score(gold, [*members, *others]))


@given(members=SCORES, others=SCORES)
def test_at_most_one_percent_of_the_non_members_pass(members: Any, others: Any) -> None:
    others = np.tile(others, 5)
    found = true_positives(members, others)
    best = max(((members > each).mean() for each in {*others, *members} if (others > each).mean() <= 0.01), default=0.0)
    assert found == pytest.approx(best)


def test_confidence_is_the_logit_of_the_probability() -> None:
    probabilities = np.array([0.5, 0.9, 0.01])
    assert confidence(-np.log(probabilities)) == pytest.approx(np.log(probabilities / (1 - probabilities)))
    assert np.isfinite(confidence([0.0, 800.0])).all()


def test_scores_without_meaning_are_worth_a_guess() -> None:
    drawn = np.random.default_rng(0)
    found = attack("none", drawn.normal(size=500), drawn.normal(size=500), seed=1)
    assert found.auc.low < 0.5 < found.auc.high
    assert found.curve[-1] == (1.0, 1.0)


def test_too_few_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 20"):
        attack("loss", np.zeros(19), np.zeros(30), seed=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataFolder]:
    """An encoder, and labels that mean nothing: whoever gets them right has learnt them by heart."""
    folder = tmp_path_factory.mktemp("audit")
    splits = {name: tiny.labelled(150, seed, meaning=False) for seed, name in enumerate(("train", "test", "other"))}
    return tiny.encoder(folder / "encoder"), tiny.data(folder / "data", DataFormat.LABELLED, **splits)


def overfit(world: tuple[Path, DataFolder], split: str, out: Path) -> Path:
    model = HubFolder.open(world[0]).model(ModelKind.CLASSIFIER, labels=tiny.LABELS)
    tokenizer = HubFolder.open(world[0]).tokenizer()
    found = examples(world[1], split, Encoding(tokenizer=tokenizer, labels=tiny.LABELS, most=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        losses(model, found, 0).mean().backward()
        optimizer.step()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def audit(model: Path, data: Path, out: Path, *references: Path) -> Outcome:
    out.mkdir()
    step = AuditPrivacy(
        model=Input(str(model)), data=Input(str(data)), references=tuple(map(Input, map(str, references)))
    )
    return step.run(Work(out=out, scratch=out, seed=1))


def test_an_overfitted_model_is_given_away_and_a_private_one_is_not(
    world: tuple[Path, DataFolder], tmp_path: Path
) -> None:
    data = world[1].path
    plain, other = overfit(world, "train", tmp_path / "plain"), overfit(world, "other", tmp_path / "other")
    tune_privately(replace(STEP, target_epsilon=1.0, epochs=10), world[0], data, tmp_path / "private")
    open_book = audit(plain, data, tmp_path / "of-plain", other)
    private = audit(tmp_path / "private" / "out", data, tmp_path / "of-private", other)
    assert open_book.metrics["loss_attack_auc"] > 0.75
    assert open_book.metrics["calibrated_attack_auc"] > 0.7
    assert max(private.metrics[f"{name}_attack_auc"] for name in ("loss", "calibrated")) < 0.58
    for name in ("loss", "calibrated"):
        interval = private.card["privacy_audit"][name]["auc"]
        assert interval["low"] < 0.5 < interval["high"]
    results = json.loads((tmp_path / "of-plain" / "results.json").read_text())
    assert results["attacks"]["loss"]["auc"]["value"] == open_book.metrics["loss_attack_auc"]
    page = (tmp_path / "of-plain" / "index.html").read_text()
    assert page.count("<path") == 3
    assert "://" not in page


def test_a_model_of_other_labels_is_refused(world: tuple[Path, DataFolder], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="other labels"):
        audit(world[0], world[1].path, tmp_path / "out")
