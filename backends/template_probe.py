"""Tries a chat template of unknown origin in a process of its own, with limits on its time and memory.

jinja2's sandbox keeps a template from the interpreter, not from loops without end or texts without bounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_SECONDS: Final = 5
"""Of processor time; a template takes milliseconds."""
_DEADLINE: Final = 20
"""Seconds on the clock, on a busy machine too."""
_MEMORY: Final = 512 << 20
_LONGEST: Final = 1 << 18
"""Characters of a template; the longest that are known have 20,000."""
_GREETING: Final = "Hello there"
_QUESTION: Final = "What is 2 + 2?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a template does with a plain conversation."""

    problem: str = ""
    """Why it cannot be used."""
    begins_with_bos: bool = False


def probe_template(template: str, specials: Mapping[str, str]) -> ProbeResult:
    """Render a question, and a conversation of three turns, with *template* and the texts of its special tokens."""
    if len(template) > _LONGEST:
        return ProbeResult(problem=f"it has {len(template):,} characters, at most {_LONGEST:,} are accepted")
    task = json.dumps({"template": template, "specials": dict(specials)})
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module, without a shell
            [sys.executable, "-m", __name__],
            input=task.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_DEADLINE,
            check=False,
        )
        return ProbeResult(**json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return ProbeResult(problem=f"it does not end within {_DEADLINE} s")
    except ValueError:  # the process ended at a limit, and printed nothing
        return ProbeResult(problem=f"it takes more than {_SECONDS} s or {_MEMORY >> 20} MB")


def _main() -> None:
    _limit()
    task = json.load(sys.stdin)
    json.dump(_render(task["template"], task["specials"]), sys.stdout)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on Windows: there the time limit is left
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))


def _render(source: str, specials: Mapping[str, str]) -> dict[str, Any]:
    from hybrid_llm.backends.chat_files import compile_template

    question = [{"role": "user", "content": _QUESTION}]
    turns = [{"role": "user", "content": _GREETING}, {"role": "assistant", "content": "Hello."}, *question]
    try:
        template = compile_template(source)
        texts = [
            template.render(messages=messages, tools=None, add_generation_prompt=True, **specials)
            for messages in (question, turns)
        ]
    except MemoryError:
        return {"problem": f"it takes more than {_MEMORY >> 20} MB"}
    except Exception as error:  # noqa: BLE001 - a template is a program: it may end in any error
        return {"problem": f"it fails on a plain conversation ({type(error).__name__}: {str(error)[:200]})"}
    if not all(_QUESTION in text for text in texts) or _GREETING not in texts[1]:
        return {"problem": "it leaves out what the user says"}
    return {"begins_with_bos": bool(specials["bos_token"]) and texts[0].lstrip().startswith(specials["bos_token"])}


if __name__ == "__main__":
    _main()
