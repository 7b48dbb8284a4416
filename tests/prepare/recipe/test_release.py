"""`sign`, `publish` and `pull` as steps: nothing goes out half, changed, below a floor, or twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from hybrid_llm.backends.models.registry import ModelRegistry, NoSuchVersion, pull
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.signing.verify import verify_folder
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.core.errors import ConfigError, HybridLLMError, PolicyError, UntrustedModel
from hybrid_llm.prepare.recipe.alone import run_step
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import plan_recipe, run_recipe

MADE = (
    "words: {kind: words, text: w}",
    "m: {kind: mix, data: words}",
    "report: {kind: judge, models: [m], score: 0.7}",
)
SIGN = "signed: {kind: sign, model: m, key: certs/release.key, cert: certs/release.pem}"
PUBLISH = "out: {kind: publish, model: signed, name: mix, registry: registry, alias: [canary, prod]}"
CHAIN = (PUBLISH, SIGN, *MADE)
"""In the wrong order: the order of a file does not matter."""
EVENTS = frozenset({"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "shutil.rmtree"})


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    make_authority(folder)
    for name in ("release", "other"):
        issue(folder, name, kind="signer")
    return folder


@pytest.fixture
def certs(tmp_path, authority):
    return shutil.copytree(authority, tmp_path / "certs")


@pytest.fixture
def trust(certs):
    return Trust(ca=certs / "ca.pem", identity="spiffe://hybrid-llm/signer/release")


@pytest.fixture
def run(recipe_file, tmp_path, certs):
    """Runs the steps in `models`: each one's result by its name."""

    def call(*lines, **options):
        return {one.name: one for one in run_recipe(read_recipe(recipe_file(*lines)), tmp_path / "models", **options)}

    return call


def registry_in(tmp_path):
    return ModelRegistry.open(str(tmp_path / "registry"))


def due(results):
    return [name for name, one in results.items() if one.is_due]


def test_what_is_signed_and_published_is_the_finished_model_with_its_card(run, tmp_path, trust):
    done = run(*CHAIN)
    folder, registry = tmp_path / "models" / "signed", registry_in(tmp_path)
    assert list(done).index("report") < list(done).index("signed") < list(done).index("out")
    verify_folder(folder, trust)
    card = json.loads((folder / "card.json").read_text())
    assert card["evaluations"] == {"report": {"score": 0.7}}
    assert card == json.loads((tmp_path / "models" / "m" / "card.json").read_text())
    version = registry.resolve("mix", "prod")
    assert registry.resolve("mix", "canary").digest == version.digest
    assert version.manifest.about.metrics["score"] == 0.7
    pull(registry, version, tmp_path / "device", trust=trust)
    receipt = json.loads((tmp_path / "models" / "out" / "published.json").read_text())
    assert receipt == {"registry": "registry", "name": "mix", "version": version.digest, "aliases": ["canary", "prod"]}
    assert not (tmp_path / "models" / "out" / "card.json").exists()


def test_a_second_run_is_up_to_date_and_leaves_the_registry_alone(run, tmp_path):
    run(*CHAIN)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "registry").rglob("*")}
    assert due(run(*CHAIN)) == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "registry").rglob("*")} == before
    registry = registry_in(tmp_path)
    assert len(registry.versions("mix")) == len(registry.history("mix", "prod")) == 1


def test_a_new_report_about_the_model_is_on_the_card_of_a_new_version(run, tmp_path):
    run(*CHAIN)
    done = run(*CHAIN, "more: {kind: judge, models: [m], score: 0.9}")
    assert due(done) == ["more", "signed", "out"]
    registry = registry_in(tmp_path)
    assert len(registry.versions("mix")) == 2
    assert registry.resolve("mix", "prod").digest == registry.versions("mix")[0][0]


def test_other_options_of_a_report_that_come_to_the_same_figures_publish_nothing(run, tmp_path):
    run(*CHAIN)
    done = run(*(line.replace("score: 0.7", "score: 0.7, loud: true") for line in CHAIN))
    assert due(done) == ["report"]


@pytest.mark.parametrize(
    "more",
    [
        "low: {kind: judge, models: [m], score: 0.4, floors: {score: 0.5}}",
        "low: {kind: judge, models: [signed], score: 0.4, floors: {score: 0.5}}",
    ],
    ids=["about the model", "about its signed copy"],
)
def test_a_model_below_a_floor_is_not_published_and_the_rest_of_the_recipe_runs(run, tmp_path, more):
    done = run(*CHAIN, more, "more: {kind: mix}")
    assert "score is 0.4, under its floor of 0.5" in done["out"].refused
    assert done["out"].record is None
    assert done["more"].record is not None
    assert not (tmp_path / "registry").exists()
    about_model = "models: [m]" in more
    assert bool(done["signed"].refused) is about_model
    assert (tmp_path / "models" / "signed").exists() is not about_model


def test_a_signed_copy_does_not_outlive_a_floor_that_its_model_misses_now(run, tmp_path):
    run(*CHAIN)
    lines = [line.replace("score: 0.7", "score: 0.7, floors: {score: 0.8}") for line in CHAIN]
    recipe_run = run(*lines)
    assert recipe_run["signed"].refused
    assert recipe_run["out"].refused
    assert not (tmp_path / "models" / "signed").exists()
    assert run(*CHAIN)["out"].record is not None


def test_a_plan_says_what_would_be_refused(recipe_file, tmp_path, certs):
    recipe = read_recipe(recipe_file(*CHAIN, "low: {kind: judge, models: [m], floors: {score: 2}}"))
    run_recipe(recipe, tmp_path / "models")
    planned = {one.name: one for one in plan_recipe(recipe, tmp_path / "models")}
    assert planned["signed"].refused
    assert planned["out"].refused == "step `low`: score is 1, under its floor of 2"


def test_the_command_ends_with_what_was_refused(recipe_file, tmp_path, certs, capsys):
    from hybrid_llm.cli.main import main

    recipe = recipe_file(*CHAIN, "low: {kind: judge, models: [m], floors: {score: 2}}")
    assert main(["models", "run", str(recipe), "--out", str(tmp_path / "models")]) == 1
    shown = capsys.readouterr()
    assert "step `signed` did not run: step `low`: score is 1, under its floor of 2" in shown.err
    assert "refused: step `low`" in shown.out


@pytest.mark.parametrize("name", ["mix.bin", "card.json", "step.json"])
def test_a_signed_copy_that_was_changed_is_made_again_and_a_foreign_one_is_refused(run, tmp_path, name):
    run(*CHAIN)
    file = next((tmp_path / "models" / "signed").rglob(name))
    intact = file.read_text()
    file.write_text(intact.replace("a", "b"))
    foreign = shutil.copytree(tmp_path / "models" / "signed", tmp_path / "foreign")
    assert run(*CHAIN)["signed"].why.endswith("was changed after it had run")
    assert file.read_text() == intact
    with pytest.raises(ConfigError, match=r"sign it again|cannot be read"):
        run(f"out: {{kind: publish, model: {foreign}, name: foreign, registry: registry}}")
    assert registry_in(tmp_path).names() == ("mix",)


def test_only_the_signature_that_a_step_asks_for_is_published(run, tmp_path):
    other = SIGN.replace("release", "other")
    asked = "trust: {ca: certs/ca.pem, identity: 'spiffe://hybrid-llm/signer/release'}"
    with pytest.raises(UntrustedModel):
        run(*MADE, other, PUBLISH.replace("alias:", f"{asked}, alias:"))
    assert not (tmp_path / "registry").exists()
    run(*MADE, SIGN, PUBLISH.replace("alias:", f"{asked}, alias:"))
    assert registry_in(tmp_path).names() == ("mix",)


def test_a_model_from_a_registry_is_a_source_with_its_lineage_and_its_signature(run, recipe_file, tmp_path, trust):
    run(*CHAIN)
    pulled = "base: {kind: pull, model: mix@prod, registry: registry, trust: {ca: certs/ca.pem}}"
    lines = (pulled, "m: {kind: mix, models: [base], text: more}")
    recipe, out = read_recipe(recipe_file(*lines, head="version: 1\nname: other\n")), tmp_path / "other"
    run_recipe(recipe, out)
    verify_folder(out / "base", trust)
    card = json.loads((out / "m" / "card.json").read_text())
    assert [one["step"] for one in card["lineage"]] == ["demo/words", "demo/m", "base", "m"]
    assert card["sections"]["parameters"] == {"demo/words": 7, "demo/m": 7, "m": 7}
    assert not any(one.is_due for one in run_recipe(recipe, out))
    assert str(tmp_path) not in (out / "m" / "card.json").read_text()


def test_a_pull_runs_again_only_when_its_alias_points_to_another_version(run, recipe_file, tmp_path):
    run(*CHAIN)
    registry = registry_in(tmp_path)
    first = registry.resolve("mix", "prod").digest
    lines = (
        "alias: {kind: pull, model: mix@canary, registry: registry}",
        f"pinned: {{kind: pull, model: 'mix@{first}', registry: registry}}",
        "m: {kind: mix, models: [alias]}",
    )
    recipe, out = read_recipe(recipe_file(*lines, head="version: 1\nname: other\n")), tmp_path / "other"
    run_recipe(recipe, out)
    run(*CHAIN, "more: {kind: judge, models: [m], score: 0.9}")
    assert [one.name for one in plan_recipe(recipe, out) if one.is_due] == ["alias", "m"]
    done = {one.name: one for one in run_recipe(recipe, out)}
    assert due(done) == ["alias"]  # the weights are the same: what reads them need not run
    assert done["alias"].record.card["source"]["version"] == registry.resolve("mix", "canary").digest != first
    shutil.rmtree(tmp_path / "registry")
    pinned = {one.name: one for one in run_recipe(recipe, out, only="pinned")}
    assert due(pinned) == []
    with pytest.raises(ConfigError, match="there is no registry"):
        run_recipe(recipe, out)


def test_a_model_that_is_not_signed_as_asked_is_not_pulled(run, recipe_file, tmp_path):
    run(*MADE, "out: {kind: publish, model: m, name: mix, registry: registry}")
    line = "base: {kind: pull, model: mix, registry: registry, trust: {ca: certs/ca.pem}}"
    with pytest.raises(UntrustedModel, match="is not signed"):
        run_recipe(read_recipe(recipe_file(line)), tmp_path / "other")
    assert not (tmp_path / "other" / "base").exists()
    with pytest.raises(NoSuchVersion):
        run_recipe(read_recipe(recipe_file(line.replace("mix,", "mix@prod,"))), tmp_path / "other")


def test_a_key_that_cannot_sign_ends_the_run_before_anything_else(run, ran):
    for wrong in ("key: certs/absent.key", "key: certs/other.key"):
        with pytest.raises(ConfigError, match=r"absent|not the certificate of the key"):
            run(*MADE, SIGN.replace("key: certs/release.key", wrong))
    assert ran == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (PUBLISH.replace("alias:", "floors: {size_mb: 1}, alias:"), "checked when the model is out already"),
        (PUBLISH.replace("name: mix", "name: No Name"), "cannot name a model"),
        (PUBLISH.replace("model: signed", "model: words"), "reads a model, and the step `words` makes data"),
        ("more: {kind: mix, models: [out]}", "reads a model, and the step `out` makes a receipt"),
        ("base: {kind: pull, model: '@prod', registry: registry}", "is not NAME, NAME@ALIAS or NAME@VERSION"),
        ("both: {kind: judge, models: [signed, m]}", "in a cycle: both -> signed -> both"),
    ],
)
def test_what_cannot_be_right_is_reported_before_anything_runs(recipe_file, certs, line, message):
    lines = [one for one in CHAIN if not one.startswith(line.split(":")[0] + ":")]
    with pytest.raises(PolicyError) as raised:
        read_recipe(recipe_file(line, *lines))
    assert message in " ".join(str(raised.value).split())


def test_a_step_alone_refuses_what_its_card_refuses(recipe_file, tmp_path, certs):
    run_recipe(read_recipe(recipe_file("m: {kind: mix, floors: {score: 2}}")), tmp_path / "models")
    line = SIGN.replace("model: m", f"model: {tmp_path / 'models' / 'm'}")
    (step,) = read_recipe(recipe_file(line)).steps.values()
    with pytest.raises(ConfigError, match="under its floor"):
        run_step(step, tmp_path / "signed", progress=lambda what, share: None)
    run_recipe(read_recipe(recipe_file("m: {kind: mix}")), tmp_path / "models")
    assert run_step(step, tmp_path / "signed", progress=lambda what, share: None).is_due
    assert not run_step(step, tmp_path / "signed", progress=lambda what, share: None).is_due


def killed_at(number: int, recipe: Path, out: Path) -> int:
    """Run the recipe in a child that is killed at the *number*-th change of a file; returns how many a whole run made.

    Runs do not make equally many: a few changes depend on the time.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event, _):
            nonlocal seen
            if event in EVENTS:
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            run_recipe(read_recipe(recipe), out)
            os.write(writer, str(seen).encode())
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        found = said.read()
    assert os.WIFEXITED(status) if found else os.WTERMSIG(status) == signal.SIGKILL, status
    return int(found or 0)


def check_nothing_half(tmp_path, trust):
    """Whatever can be seen in the registry is whole, signed, and the only version."""
    try:
        registry = registry_in(tmp_path)
    except ConfigError:
        return  # it was not begun
    versions = registry.versions("mix")
    assert len(versions) <= 1
    for digest, _ in versions:
        pull(registry, registry.version("mix", digest), tmp_path / "device", trust=trust)
        shutil.rmtree(tmp_path / "device")
    assert all(entry.version == versions[0][0] for entry in registry.aliases("mix").values())


def test_a_kill_at_any_change_of_a_file_leaves_nothing_half_published_and_the_next_run_ends_it(
    run, recipe_file, tmp_path, trust
):
    run(*MADE)
    recipe, models, made = recipe_file(*CHAIN), tmp_path / "models", tmp_path / "made"
    shutil.copytree(models, made)
    total = killed_at(0, recipe, models)
    assert total > 20
    killed = 0
    for number in range(1, total + 1, max(1, total // 10)):
        for folder in (models, tmp_path / "registry"):
            shutil.rmtree(folder)
        shutil.copytree(made, models)
        killed += not killed_at(number, recipe, models)
        check_nothing_half(tmp_path, trust)
        run_recipe(read_recipe(recipe), models)
        check_nothing_half(tmp_path, trust)
        registry = registry_in(tmp_path)
        assert set(registry.aliases("mix")) == {"canary", "prod"}
        assert len(registry.history("mix", "prod")) == 1
        assert not any(one.is_due for one in run_recipe(read_recipe(recipe), models))
    assert killed > 7


def test_what_reads_a_copy_that_was_refused_does_not_run_either(run):
    done = run(*CHAIN, "low: {kind: judge, models: [m], floors: {score: 2}}", "late: {kind: judge, models: [signed]}")
    assert done["late"].refused == "`signed` did not run"


def test_errors_of_the_registry_are_ours(run, tmp_path):
    (tmp_path / "registry").write_text("a file")
    with pytest.raises(HybridLLMError):
        run(*CHAIN)
