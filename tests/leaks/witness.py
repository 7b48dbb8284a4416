"""Captures everything reported about a request: logs, hooks, errors, warnings, output, files and connections."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import pickle
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hybrid_llm.router.observability.hooks import RequestEvent

__all__ = ["Witness", "reachable", "rendered"]

_CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg", "subprocess.Popen", "os.exec", "os.posix_spawn")
_watching: list[Witness] = []


class Witness(logging.Handler):
    """A log handler and a hook. *told* is everything reported; *touched* every file written and peer connected to."""

    def __init__(self, *, own: Path) -> None:
        """*own* is a folder whose files the test reads itself."""
        super().__init__(logging.DEBUG)
        self.told: list[str] = []
        self.touched: list[str] = []
        self._policies: dict[int, object] = {}
        self._own = str(own)
        _install()

    def emit(self, record: logging.LogRecord) -> None:
        shown = logging.Formatter("%(name)s %(message)s").format(record)  # with the traceback, if there is one
        self.told += [shown, repr(record.args), repr(record.msg)]

    def __call__(self, event: RequestEvent) -> None:
        self.told += rendered(event, self._policies)

    def caught(self, error: BaseException) -> None:
        """Record an error, its causes, and their attributes."""
        self.told += traceback.format_exception(error)
        left: list[BaseException | None] = [error]
        seen: set[int] = set()
        while left:
            one = left.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            self.told += [str(one), repr(one), repr(one.args), repr(getattr(one, "__notes__", ()))]
            self.told += [text for value in vars(one).values() for text in rendered(value, self._policies)]
            left += [one.__cause__, one.__context__]

    def audited(self, event: str, args: tuple[Any, ...]) -> None:
        """Record an event of Python's own audit."""
        if event in _CONNECTING:
            self.touched.append(f"{event} {args[1:]!r}")
        elif event == "open" and _writes(args) and not self._is_known(str(args[0])):
            self.touched.append(f"wrote {args[0]!r}")

    def _is_known(self, path: str) -> bool:
        return path.startswith(self._own) or path.endswith(".pyc") or "__pycache__" in path or path.isdigit()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Catch everything while this is open."""
        root, output = logging.getLogger(), io.StringIO()
        level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        _watching.append(self)
        try:
            with redirect_stdout(output), redirect_stderr(output), warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                yield
        finally:
            _watching.remove(self)
            root.removeHandler(self)
            root.setLevel(level)
        self.told += [output.getvalue(), *(str(warning.message) for warning in warned)]


def _writes(args: tuple[Any, ...]) -> bool:
    _, mode, flags = (*args, None, 0)[:3]
    return bool(mode and set(str(mode)) & set("wax+")) or bool((flags or 0) & 3)


@functools.cache
def _install() -> None:
    """An audit hook cannot be removed, so there is only one, which does nothing without a witness."""

    def audit(event: str, args: tuple[Any, ...]) -> None:
        for witness in _watching:
            witness.audited(event, args)

    sys.addaudithook(audit)


def rendered(value: object, policies: dict[int, object]) -> list[str]:
    """*value* in every form in which a hook, a metric or a recording may write it down.

    *policies* are parts of policies that were looked at before: they do not change, and there are many.
    """
    shown = [repr(value), json.dumps(value, default=_as_fields)]
    shown += [str(value)] if type(value).__str__ is not object.__str__ else []
    with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):  # what cannot be pickled, is not
        shown.append(pickle.dumps(value).decode("latin-1"))
    for item in reachable(value, policies):
        explain = getattr(item, "explain", None)
        shown += [item] if isinstance(item, str) else [explain()] if callable(explain) else []
    return shown


def _as_fields(value: object) -> object:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*slots, *getattr(value, "__dict__", {})]
    return {name: getattr(value, name, None) for name in names} if names else repr(value)


def reachable(root: object, policies: dict[int, object] | None = None) -> Iterator[object]:
    """Everything that *root* leads to: fields, items, bound arguments; not modules, classes or globals.

    Parts of policies are noted in *policies*, and are passed over where they are there already.
    """
    policies = {} if policies is None else policies
    seen = set(policies)
    left = [root]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, types.ModuleType | type | types.CodeType | types.TracebackType):
            continue
        seen.add(id(item))
        if type(item).__module__.startswith("hybrid_llm.policies"):
            policies[id(item)] = item
        yield item
        left += _inside(item)


def _inside(item: object) -> list[object]:
    match item:
        case functools.partial():
            return [item.func, *item.args, *item.keywords.values()]
        case types.MethodType():
            return [item.__self__]
        case types.FunctionType():
            return [cell.cell_contents for cell in item.__closure__ or ()]
        case dict() | types.MappingProxyType():
            return [*item.keys(), *item.values()]
        case list() | tuple() | set() | frozenset():
            return list(item)
        case str() | int() | float() | bytes() | None:
            return []
    slots = [name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ())]
    return [getattr(item, name, None) for name in (*slots, *getattr(item, "__dict__", {}))]
