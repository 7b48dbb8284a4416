"""Planted faults of recipes: a stale result counts as fresh, a broken run spoils a good result, a bad model passes."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_ROOM = "hybrid_llm.prepare.recipe"

MUTANTS = (
    Mutant(
        "a file that changed makes no step stale",
        f"{_ROOM}.digests:digest_options",
        swap("{'sha256': digest_path(value)} if value.exists() else {'path': value.name}", "{'path': value.name}"),
    ),
    Mutant(
        "a step whose input changed is up to date",
        f"{_ROOM}.digests:digest_options",
        swap("{'sha256': input_digest(value)}", "{'input': value.text}"),
    ),
    Mutant(
        "a file that was renamed is no change",
        f"{_ROOM}.digests:digest_of",
        swap("f'{name} {sha256}'", "sha256"),
    ),
    Mutant(
        "results of older code are up to date",
        f"{_ROOM}.execution:Job.version",
        swap("int(getattr(self.step.step, 'version', 1))", "1"),
    ),
    Mutant(
        "what a step depends on beside its options is no change",
        f"{_ROOM}.execution:Job.parts",
        swap(
            "{**__a, **__b, 'the seed': __c, 'the version of its kind': __d}",
            "{**__a, 'the seed': __c, 'the version of its kind': __d}",
        ),
    ),
    Mutant(
        "a result that was changed by hand is up to date",
        f"{_ROOM}.runner:_Run.state",
        drop_operand("tampered(record, folder)"),
    ),
    Mutant(
        "a step that fails takes the older result with it",
        f"{_ROOM}.execution:execute",
        swap("result.mkdir()", "result.mkdir()\nshutil.rmtree(out, ignore_errors=True)"),
    ),
    Mutant(
        "a failure deletes the checkpoints",
        f"{_ROOM}.execution:execute",
        swap("gc.collect()", "shutil.rmtree(scratch, ignore_errors=True)"),
    ),
    Mutant(
        "a step goes on from checkpoints of other options",
        f"{_ROOM}.runner:_Run.finish",
        swap("scratch / job.key[:16]", "scratch"),
    ),
    Mutant("two processes write to one folder", f"{_ROOM}.runner:_alone", never("not held")),
    Mutant(
        "a metric that is no number is above its floor",
        f"{_ROOM}.record:breaches",
        swap("not value >= bound", "value < bound"),
    ),
    Mutant(
        "a model is judged by the floors of its first run",
        f"{_ROOM}.runner:_judged",
        always("found == record.breaches"),
    ),
    Mutant(
        "a model of one that misses a floor may be published",
        f"{_ROOM}.card:_refusals",
        swap("(*steps, *judged)", "(*steps[-1:], *judged)"),
    ),
    Mutant(
        "libraries may ask a network",
        f"{_ROOM}.execution:_offline",
        drop("os.environ.update(dict.fromkeys(_OFFLINE, '1'))"),
    ),
)
