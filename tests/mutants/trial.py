"""Run tests against a checkout with a fault in it, in a process that is forked with pytest imported."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "pytest",
        "_hypothesis_pytestplugin",
        "anyio.pytest_plugin",
        "hypothesis.strategies",
        "grpc.aio",
        "numpy",
        __name__,
    ]
)
_RAN = 64
"""What is added to the exit code of pytest: a process that ends before it runs the tests has another one."""
_PASSED = {_RAN, _RAN + 5}
"""All tests passed, there was none to run."""
_NOTICED = {_RAN + 1, _RAN + 2}
"""A test failed, a test file cannot be imported."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?:\S*?tests/)?(.*?)(?: - .*)?$", re.MULTILINE)


class Broken(RuntimeError):
    """Pytest did not run the tests."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A checkout to test, and the variables of the environment in which its tests run."""

    folder: Path
    variables: Mapping[str, str]

    def failure(self, tests: Sequence[str], timeout: float | None = None) -> str | None:
        """The first test in the files *tests* that fails, also by taking more than *timeout* seconds; None if all pass.

        Raises:
            Broken: with the end of what pytest wrote.
        """
        process = _FORKING.Process(target=self._run, args=(tests,))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            return f"more than {timeout:.0f} s"
        if process.exitcode in _PASSED:
            return None
        if process.exitcode in _NOTICED:
            failed = _FAILED.search(self.output())
            return failed[1] if failed else "?"
        raise Broken(f"the process ended with {process.exitcode}: {self.output()}")

    def output(self) -> str:
        """The end of what the last tests wrote."""
        return self._log.read_text("utf-8", errors="replace")[-2000:]

    @property
    def _log(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.log"

    def _run(self, tests: Sequence[str]) -> None:
        """In the new process: become a fresh interpreter in the checkout, and run pytest."""
        log = os.open(self._log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.folder)
        os.environ.update(self.variables, PYTHONPATH=str(self.folder), PYTHONFAULTHANDLER="1")
        sys.path.insert(0, str(self.folder))
        sys.dont_write_bytecode = False
        for name in [name for name in sys.modules if name.split(".")[0] in {"tests", "hybrid_llm"}]:
            del sys.modules[name]
        code = _RAN + _pytest(self.folder, tests)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pytest(folder: Path, tests: Sequence[str]) -> int:
    import pytest
    from hypothesis import Phase, settings

    # A counterexample is all that is asked for: making it smaller takes longer than finding it.
    settings.register_profile("mutants", deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
    options = ["-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--hypothesis-profile=mutants"]
    files = [str(folder / "tests" / test) for test in tests]
    return int(pytest.main([*options, "--rootdir", str(folder), *files], [_VariedFirst()]))


class _VariedFirst:
    """A plugin of pytest: the first case of every test runs before the second of any, and properties run last."""

    def pytest_collection_modifyitems(self, items: list) -> None:
        cases = _cases(item.nodeid.partition("[")[0] for item in items)
        order = dict(zip(items, cases, strict=True))
        items.sort(key=lambda item: (item.get_closest_marker("hypothesis") is not None, order[item]))


def _cases(names: Iterable[str]) -> Iterator[int]:
    """How many of the same name stood before each of *names*."""
    seen: Counter[str] = Counter()
    for name in names:
        yield seen[name]
        seen[name] += 1
