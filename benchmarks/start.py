"""What importing costs: seconds and memory of `import hybrid_llm` beside bare Python, and beside LiteLLM and httpx.

    python -m benchmarks start [--json FILE]

Each import runs in a fresh process, in turns; medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks._run import LITELLM, ROOT, parsed, parser, with_json, write

CODE = """
import time, resource
began = time.perf_counter()
{statement}
took = time.perf_counter() - began
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
ROUNDS = 7


def contenders() -> dict[str, tuple[str, str]]:
    """Name -> interpreter and statement."""
    ours = sys.executable
    found = {
        "bare Python": (ours, "pass"),
        "import hybrid_llm": (ours, "import hybrid_llm"),
        "from hybrid_llm import HybridLLM": (ours, "from hybrid_llm import HybridLLM"),
    }
    if not LITELLM.exists():
        print("LiteLLM is not installed and left out: make bench makes its environment")
    else:
        found["import httpx"] = (str(LITELLM), "import httpx")
        found["import litellm"] = (str(LITELLM), "import litellm")
    return found


def once(interpreter: str, statement: str) -> tuple[float, float]:
    """Seconds and peak MiB of one fresh process."""
    code = CODE.format(statement=statement)
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    options = parsed(with_json(parser(__doc__)))
    found = contenders()
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(1 if options.smoke else ROUNDS):
        for name, how in found.items():
            runs[name].append(once(*how))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in runs.items()}
    floor = medians["bare Python"][1]
    print(f"{'':34} {'seconds':>9} {'MiB over bare Python':>22}   (budget 0.15 s, 30 MiB)")
    for name, (seconds, megabytes) in medians.items():
        print(f"{name:34} {seconds:9.3f} {megabytes - floor:22.1f}")
    write(options.json, medians)


if __name__ == "__main__":
    main()
