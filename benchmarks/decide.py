"""What a decision costs: 20 rules as a policy, beside a hand-written `if` chain, cel-expr-python and LiteLLM's Router.

    python -m benchmarks decide [--json FILE]

All are timed in turns in one run, so that a busy machine disturbs them alike; the figures are medians of the turns.
LiteLLM's Router runs in a process of its own environment (`.venv-litellm`, made by `make bench`); it chooses between
two deployments by its default strategy, and evaluates no rules.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks._run import LITELLM, parsed, parser, with_json, write
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies import parse_policy

PICK = """
import os, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
from litellm import Router
litellm.suppress_debug_info = True
litellm.telemetry = False
entry = lambda n: {"model_name": "m", "litellm_params": dict(model=f"openai/{n}", api_key="x", mock_response="end")}
router = Router(model_list=[entry("a"), entry("b")])
messages = [{"role": "user", "content": "A short question?"}]
pick = lambda: router.get_available_deployment("m", messages=messages)
for _ in range(50): pick()
print("ready", flush=True)
while True:
    count = int(input())
    start = time.perf_counter()
    for _ in range(count): pick()
    print((time.perf_counter() - start) / count * 1e6, flush=True)
"""

HARD = [
    ("edge", "request.prompt_tokens + request.max_tokens > edge.context_window"),
    ("cloud", "request.prompt_tokens + request.max_tokens > cloud.context_window"),
    ("cloud", "!network.online"),
    ("edge", "device.memory_available_mb < 400.0 || device.cpu_load > 98%"),
    ("edge", "has(device.temperature_c) && device.temperature_c > 95.0"),
    ("cloud", "has(network.metered) && network.metered && request.prompt_tokens > 4000"),
    ("cloud", "cloud.queue > 100 && cloud.load > 2.0"),
    ("edge", 'request.task == "translate-book"'),
    ("cloud", "request.deadline_ms < 50ms"),
    ("edge", "edge.queue > 8"),
]
SOFT = [
    "has(device.battery) && has(device.charging) && device.battery < 20% && !device.charging",
    "has(device.temperature_c) && device.temperature_c > 85.0",
    'request.task in ["summarise", "translate"]',
    'has(request.tenant) && request.tenant.startsWith("batch-")',
    "edge.predicted_ttft_ms > 4s",
    "request.has_tools && request.message_count > 20",
    "device.cpu_load > 90%",
    "cloud.predicted_ttft_ms + 90.0 * cloud.predicted_tpot_ms < 20.0",
    "request.max_tokens > 4000",
]
Timer = Callable[[int], float]
"""Calls so often, and answers the microseconds of one call."""
TAGS = "tags:\n  phi: {allow: [edge]}\n  public: {allow: [edge, cloud]}\n"


def policy_text() -> str:
    """20 rules: 10 `exclude`, 9 `prefer` with a condition, and one without."""
    hard = "".join(f"  - exclude: {target}\n    when: >-\n      {condition}\n" for target, condition in HARD)
    soft = "".join(f"  - prefer: [cloud, edge]\n    when: >-\n      {condition}\n" for condition in SOFT)
    return f"version: 1\nname: bench\n{TAGS}rules:\n{hard}{soft}  - prefer: [edge, cloud]\n"


def hard_chain(request: RequestMetadata, signals: Signals) -> tuple[bool, bool]:
    """The ten `exclude` rules by hand: (edge is excluded, cloud is excluded)."""
    device, network = signals.device, signals.network
    edge, cloud = signals.backends["edge"], signals.backends["cloud"]
    total = request.prompt_tokens + request.max_tokens
    no_edge = (
        total > edge.context_window
        or device.memory_available_mb < 400.0
        or device.cpu_load > 0.98
        or (device.temperature_c is not None and device.temperature_c > 95.0)
        or request.task == "translate-book"
        or edge.queue > 8
    )
    no_cloud = (
        total > cloud.context_window
        or not network.online
        or (network.metered is not None and network.metered and request.prompt_tokens > 4000)
        or (cloud.queue > 100 and cloud.load > 2.0)
        or request.deadline * 1000.0 < 50.0
    )
    return no_edge, no_cloud


def soft_chain(request: RequestMetadata, signals: Signals) -> bool:
    """The nine conditions of `prefer` by hand: whether the cloud is preferred."""
    device, edge, cloud = signals.device, signals.backends["edge"], signals.backends["cloud"]
    return bool(
        (device.battery is not None and device.charging is not None and device.battery < 0.2 and not device.charging)
        or (device.temperature_c is not None and device.temperature_c > 85.0)
        or request.task in ("summarise", "translate")
        or (request.tenant is not None and request.tenant.startswith("batch-"))
        or edge.predicted_ttft_ms > 4000.0
        or (request.has_tools and request.message_count > 20)
        or device.cpu_load > 0.9
        or cloud.predicted_ttft_ms + 90.0 * cloud.predicted_tpot_ms < 20.0
        or request.max_tokens > 4000
    )


def by_hand(request: RequestMetadata, signals: Signals) -> list[str]:
    """Conditions only: no tags, backend states, reasons or record of the decision."""
    no_edge, no_cloud = hard_chain(request, signals)
    order = ["cloud", "edge"] if soft_chain(request, signals) else ["edge", "cloud"]
    return [name for name in order if not (no_edge if name == "edge" else no_cloud)]


def by_hand_with_decision(request: RequestMetadata, signals: Signals) -> Decision:
    """The same with the record that a router needs to explain its decisions."""
    order = by_hand(request, signals)
    excluded = {name: "a rule" for name in signals.backends if name not in order}
    return Decision(order=tuple(order), excluded=excluded, policy="hand", digest="", tags=request.privacy)


def in_cel(request: RequestMetadata, signals: Signals) -> Callable[[], object] | None:
    """The 19 conditions evaluated one by one with cel-expr-python; None where it is not installed."""
    try:
        from cel_expr_python.cel import NewEnv, Type
    except ImportError:
        return None
    kinds = {"bool": Type.BOOL, "int": Type.INT, "float": Type.DOUBLE, "str": Type.STRING}
    values = flat(request, signals)
    environment = NewEnv(variables={name: kinds[type(value).__name__] for name, value in values.items()})
    compiled = [environment.compile(cel_text(condition)) for condition in [text for _, text in HARD] + SOFT]
    return lambda: [expression.eval(data=values) for expression in compiled]


def flat(request: RequestMetadata, signals: Signals) -> dict[str, bool | int | float | str]:
    """Every field under a flat name, as a CEL environment without protobuf messages needs it."""
    found: dict[str, bool | int | float | str] = {}
    groups = {"device": signals.device, "network": signals.network, **signals.backends}
    for group, record in groups.items():
        for name in record.__slots__:
            value = getattr(record, name)
            if value is None or isinstance(value, bool | int | float | str):  # a list is in no condition here
                found[f"{group}_{name}"] = str(value) if isinstance(value, str) else 0.5 if value is None else value
    found["network_metered"] = False
    found |= {"request_prompt_tokens": request.prompt_tokens, "request_max_tokens": request.max_tokens}
    found |= {"request_task": request.task, "request_tenant": "a", "request_deadline_ms": request.deadline_ms}
    return found | {"request_has_tools": request.has_tools, "request_message_count": request.message_count}


def cel_text(condition: str) -> str:
    """The condition in plain CEL: flat names, no has(), numbers for quantities."""
    plain = {"98%": "0.98", "20%": "0.2", "90%": "0.9", "50ms": "50.0", "4s": "4000.0"}
    for quantity, value in plain.items():
        condition = condition.replace(quantity, value)
    without_has = re.sub(r"has\([a-z_.]+\) && ", "", condition)
    return re.sub(r"\b(request|device|network|edge|cloud)\.", r"\1_", without_has)


class Picker:
    """LiteLLM Router's choice of a deployment, in its own process; `time` returns microseconds."""

    def __init__(self, python: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [python, "-c", PICK], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        self.ready = self._line().strip() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def time(self, count: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def timed(subject: Callable[[], object], count: int) -> float:
    """Microseconds of one call."""
    start = time.perf_counter()
    for _ in range(count):
        subject()
    return (time.perf_counter() - start) / count * 1e6


def measure(subjects: dict[str, Timer], turns: int, calls: int) -> dict[str, float]:
    """Median microseconds of one call, subjects in turns; slow ones are called less often."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(turns):
        for name, subject in subjects.items():
            times[name].append(subject(calls // 20 if "cel" in name or "LiteLLM" in name else calls))
    return {name: statistics.median(found) for name, found in times.items()}


def situation() -> tuple[RequestMetadata, Signals]:
    """An idle laptop, and a short question that may go anywhere."""
    request = RequestMetadata(prompt_tokens=200, max_tokens=128, privacy=frozenset({"public"}), tenant="a")
    device = DeviceSignals(cpu_load=0.2, memory_available_mb=4000.0, battery=0.8, charging=True, temperature_c=50.0)
    edge = BackendState(name="edge", location=Location.EDGE, context_window=4096, predicted_ttft_ms=150.0)
    cloud = BackendState(name="cloud", location=Location.CLOUD, context_window=32768, predicted_ttft_ms=300.0)
    signals = Signals(device=device, network=NetworkSignals(metered=False), backends={"edge": edge, "cloud": cloud})
    return request, signals


def main() -> None:
    """Time everything, and print one line per subject."""
    made = with_json(parser(__doc__))
    made.add_argument("--litellm", type=Path, default=LITELLM, help="the Python of an environment with LiteLLM")
    options = parsed(made)
    turns, calls = (3, 20) if options.smoke else (41, 2000)
    request, signals = situation()
    policy = parse_policy(policy_text())
    subjects: dict[str, Timer] = {
        "policy.decide, 20 rules": partial(timed, lambda: policy.decide(request, signals)),
        "if chain by hand, conditions only": partial(timed, lambda: by_hand(request, signals)),
        "if chain by hand, with the Decision record": partial(timed, lambda: by_hand_with_decision(request, signals)),
    }
    assert policy.decide(request, signals).order == tuple(by_hand(request, signals)), "both must decide alike"
    cel = in_cel(request, signals)
    if cel is None:
        print("cel-expr-python is not installed and left out: pip install cel-expr-python")
    else:
        subjects["cel-expr-python, the 19 conditions"] = partial(timed, cel)
    picker = Picker(options.litellm) if options.litellm.exists() else None
    if picker is not None and picker.ready:
        subjects["LiteLLM Router's pick, 2 deployments"] = picker.time
    else:
        print("LiteLLM is not installed and left out: make bench makes its environment")
    figures = measure(subjects, turns, calls)
    if picker is not None:
        picker.close()
    floor = figures["if chain by hand, conditions only"]
    for name, microseconds in figures.items():
        print(f"{name:45} {microseconds:8.2f} us   {microseconds / floor:6.1f} x the conditions by hand")
    decision = policy.decide(request, signals)
    explained = measure({"explain": partial(timed, decision.explain)}, min(turns, 5), 20)["explain"]
    print(f"{'explanation, on demand':45} {explained:8.2f} us")
    write(options.json, {**figures, "explain": explained})


if __name__ == "__main__":
    main()
