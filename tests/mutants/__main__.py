"""Plant each fault in a copy of the package and run the tests that must notice it.

    python -m tests.mutants [--suite NAME] [--only TEXT] [--examples N] [--jobs N]

Exit status: 0 all faults were noticed, 1 one survived, 2 a fault cannot be planted or the tests fail without one.
"""

from __future__ import annotations

import argparse
import ast
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import cache_from_source
from itertools import repeat
from pathlib import Path

from tests.mutants import (
    audit,
    blocks,
    caching,
    clouds,
    credentials,
    data,
    detectors,
    endpoints,
    fairness,
    following,
    gateway,
    guardrails,
    integrations,
    leaks,
    logprobs,
    names,
    net,
    penalties,
    policies,
    privacy,
    private,
    pseudonyms,
    quality,
    recipe,
    recovery,
    registry,
    rights,
    router,
    sealing,
    sending,
    signing,
    tools,
    traces,
    verify,
)
from tests.mutants.mutant import ROOT, Mutant, Unplantable
from tests.mutants.trial import Broken, Trial

_HANGS = 10.0
"""Tests that take so many times as long as without a fault hang, which is a way to notice it."""
_HANGS_S = 60.0
"""The least of these limits, in seconds."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A list of faults, and the tests that must notice them, the fastest first; paths are inside `tests`."""

    name: str
    mutants: Sequence[Mutant]
    tests: tuple[str, ...]

    def likeliest_first(self, mutant: Mutant | None) -> list[str]:
        """The tests, those that have the name of the module that *mutant* changes before the others."""
        own = "" if mutant is None else f"test_{mutant.file.name}"
        return sorted(self.tests, key=lambda test: Path(test).name != own)


def _tests(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/test_{name}.py" for name in names)


SUITES = (
    Suite("credentials", credentials.MUTANTS, _tests("router", "credentials")),
    Suite("policies", policies.MUTANTS, _tests("policies", "decide", "language", "findings", "properties")),
    Suite("router", router.MUTANTS, (*_tests("router", "attempts", "recovery", "client"), *_tests("core", "health"))),
    Suite("recovery", recovery.MUTANTS, _tests("router", "recovery", "tracebacks")),
    Suite(
        "privacy",
        privacy.MUTANTS,
        _tests("router", "guard", "forms", "request_metadata", "privacy", "structured", "doubt", "leaks"),
    ),
    Suite(
        "rights",
        rights.MUTANTS,
        (*_tests("core/rights", "grants", "tokens", "quotas"), *_tests("backends/wire", "rights", "revocation")),
    ),
    Suite("names", names.MUTANTS, _tests("router", "names_in_json")),
    Suite("leaks", leaks.MUTANTS, _tests("router", "leak_kinds", "leaks")),
    Suite("quality", quality.MUTANTS, _tests("router", "quality")),
    Suite("caching", caching.MUTANTS, _tests("router", "disk", "flights", "cache_config")),
    Suite(
        "sealing",
        sealing.MUTANTS,
        (*_tests("router", "sealed"), *_tests("backends/wire", "sealing", "evidence", "sealed_calls")),
    ),
    Suite("sending", sending.MUTANTS, _tests("backends/wire", "outgoing")),
    Suite(
        "clouds",
        clouds.MUTANTS,
        (
            *_tests("backends/http", "encode", "continuation", "health"),
            *_tests("backends/openai", "describe", "backend"),
            *_tests("backends/anthropic", "backend"),
        ),
    ),
    Suite(
        "endpoints",
        endpoints.MUTANTS,
        (
            *_tests("core", "health"),
            *_tests("backends/wire", "choose", "place", "prober", "no_thread", "no_network", "pool"),
        ),
    ),
    Suite(
        "gateway",
        gateway.MUTANTS,
        _tests("gateway", "exchange", "stored", "console", "guardrails", "http", "robust"),
    ),
    Suite(
        "guardrails",
        guardrails.MUTANTS,
        (
            *_tests("router", "guardrail_passages", "guardrails", "guardrail_kinds"),
            *_tests("backends/encoder", "guardrail"),
        ),
    ),
    Suite("integrations", integrations.MUTANTS, _tests("integrations", "common", "asgi")),
    Suite("verify", verify.MUTANTS, _tests("lab", "verify")),
    Suite("errors", net.ERRORS, _tests("router", "net", "output", "tracebacks", "error_texts")),
    Suite("schemas", net.SCHEMAS, _tests("backends", "detokenize", "schema")),
    Suite("statuses", net.STATUSES, _tests("backends/wire", "status", "net")),
    Suite("tools", tools.MUTANTS, _tests("router", "tools")),
    Suite(
        "traces",
        traces.MUTANTS,
        (*_tests("router", "otel"), *_tests("core", "telemetry"), *_tests("backends/wire", "telemetry")),
    ),
    Suite(
        "logprobs",
        logprobs.MUTANTS,
        (*_tests("router", "logprobs", "restored_tokens"), *_tests("backends/calls", "visible")),
    ),
    Suite("blocks", blocks.MUTANTS, _tests("backends/engine", "blocks", "schedules", "attention")),
    Suite(
        "penalties",
        penalties.MUTANTS,
        (
            *_tests("backends/wire", "penalties"),
            *_tests("backends/engine", "sampling"),
            *_tests("backends/edge", "decoding"),
        ),
    ),
    Suite("detectors", detectors.MUTANTS, _tests("router", "direction", "detectors", "labels", "evidence")),
    Suite("pseudonyms", pseudonyms.MUTANTS, _tests("router", "pseudonyms", "restore", "values", "mangled")),
    Suite(
        "registry",
        registry.MUTANTS,
        _tests("backends/models/registry", "registry", "hostile", "publish_and_pull", "collect"),
    ),
    Suite(
        "audit",
        audit.MUTANTS,
        (*_tests("backends/audit", "audit"), *_tests("router", "audit"), *_tests("backends/wire", "audit")),
    ),
    Suite("fairness", fairness.MUTANTS, _tests("backends/engine", "fairness")),
    Suite("following", following.MUTANTS, _tests("backends/following", "trial", "plan", "following")),
    Suite(
        "signing",
        signing.MUTANTS,
        (
            *_tests("backends/signing", "signing", "loading"),
            *_tests("backends/models/registry", "publish_and_pull"),
        ),
    ),
    Suite("recipe", recipe.MUTANTS, _tests("prepare/recipe", "runner", "interruption", "cards")),
    Suite("data", data.MUTANTS, _tests("prepare/data", "duplicates", "splitting", "private")),
    Suite(
        "private", private.MUTANTS, _tests("prepare/privacy", "noise", "loop", "accounting", "clipping", "tune_private")
    ),
)


class Checkout:
    """A copy of the package and its tests in *folder*, the rest is linked; it takes one fault at a time."""

    def __init__(self, folder: Path, examples: int) -> None:
        self._folder = folder
        shutil.copytree(ROOT / "hybrid_llm", folder / "hybrid_llm")
        shutil.copytree(ROOT / "tests", folder / "tests")
        for item in ROOT.iterdir():
            if not item.name.startswith(".") and not (folder / item.name).exists():
                inside = folder / "hybrid_llm" / item.name
                (folder / item.name).symlink_to(inside if inside.exists() else item)
        self._trial = Trial(folder, {"HYBRID_TESTS_EXAMPLES": str(examples)})

    def noticed_by(self, suite: Suite, mutant: Mutant, limit: float | None = None) -> str | None:
        """The first test that fails with *mutant* planted, or that all take more than *limit* seconds; or None.

        Raises:
            Unplantable: the list is out of date.
            Broken: pytest does not run.
        """
        with self._planted(mutant):
            return self._trial.failure(suite.likeliest_first(mutant), limit)

    def limit(self, suite: Suite) -> float:
        """How many seconds the tests may take, from what they take without a fault.

        Raises:
            Broken: a test fails without a fault, or pytest does not run.
        """
        began = time.monotonic()
        if failure := self._trial.failure(suite.tests):
            raise Broken(f"{suite.name}: {failure} fails without a fault: {self._trial.output()}")
        return max(_HANGS_S, _HANGS * (time.monotonic() - began))

    @contextmanager
    def _planted(self, mutant: Mutant) -> Iterator[None]:
        path = self._folder / mutant.file
        # Bytecode of the other version passes for this one's if both have one size and were written in one second.
        bytecode = Path(cache_from_source(path))
        text = path.read_text("utf-8")
        try:
            bytecode.unlink(missing_ok=True)
            path.write_text(ast.unparse(mutant.planted()), "utf-8")
            yield
        finally:
            bytecode.unlink(missing_ok=True)
            path.write_text(text, "utf-8")


def unplantable(suites: Sequence[Suite] = SUITES) -> Iterator[str]:
    """Why faults cannot be planted: one line each, none if the lists are up to date."""
    for suite in suites:
        for test in suite.tests:
            if not (ROOT / "tests" / test).is_file():
                yield f"{suite.name}: there is no tests/{test}"
        for mutant in suite.mutants:
            try:
                _, scope = mutant.planted_at()  # the rest of the module is as it was
                compile(ast.unparse(scope), str(mutant.file), "exec")
            except (Unplantable, SyntaxError) as error:
                yield f"{suite.name}: {error}"


def run(suite: Suite, only: str, examples: int, jobs: int) -> tuple[int, int]:
    """Plant the faults of *suite* that hold *only*; returns how many there were, and how many survived.

    Raises:
        Broken: a test fails without a fault, or pytest does not run.
    """
    chosen = [mutant for mutant in suite.mutants if only in mutant.what]
    if not chosen:
        return 0, 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        checkouts = [Checkout(Path(name, str(number)), examples) for number in range(jobs)]
        limit = checkouts[0].limit(suite)

        def noticed_by(mutant: Mutant) -> str | None:
            checkout = checkouts.pop()
            try:
                return checkout.noticed_by(suite, mutant, limit)
            finally:
                checkouts.append(checkout)

        return len(chosen), sum(map(_report, repeat(suite), chosen, pool.map(noticed_by, chosen)))


def _report(suite: Suite, mutant: Mutant, test: str | None) -> bool:
    """Print which *test* noticed *mutant*; returns whether none did."""
    verdict = "SURVIVED" if test is None else "noticed "
    print(f"{verdict}  {suite.name:10} {mutant.what}  ({mutant.target})  {test or ''}".rstrip(), flush=True)
    return test is None


def main(arguments: list[str] | None = None) -> int:
    """Run the whole list, or the part that the options name."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", choices=[suite.name for suite in SUITES], help="only the faults of this list")
    parser.add_argument("--only", default="", help="only faults whose description contains this text")
    parser.add_argument("--examples", type=int, default=150, help="examples per property (default: 150)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    options = parser.parse_args(arguments)
    suites = [suite for suite in SUITES if options.suite in {None, suite.name}]
    if stale := list(unplantable(suites)):
        print(*stale, sep="\n")
        return 2
    try:
        counts = [run(suite, options.only, options.examples, options.jobs) for suite in suites]
    except Broken as error:
        print(error)
        return 2
    total, survived = (sum(column) for column in zip(*counts, strict=True))
    print(f"{total - survived} of {total} faults were noticed")
    return 1 if survived or not total else 0


if __name__ == "__main__":
    sys.exit(main())
