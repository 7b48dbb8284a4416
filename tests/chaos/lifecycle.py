"""Programs that fork, that end with work open, and that use many event loops: `python -m tests.chaos.lifecycle`.

Exit status: 0 every child and every program ended as it should, 1 one did not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.chaos.world import ROOT, NodeOptions, World

EXIT_S = 1.0
"""A program ends within this time after its last line, beyond what one that leaves nothing open takes."""
HANG_S = 60.0
PRELUDE = """
import asyncio, collections, os, signal, sys, threading, time
import hybrid_llm
from hybrid_llm.errors import UnsupportedRuntime

def cloud(hedge=""):
    from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
    from hybrid_llm.backends.wire import TLSFiles
    from hybrid_llm.core.request import Location
    from hybrid_llm.policies import parse_policy
    tls = TLSFiles.from_dir(os.environ["APP_TLS"], "app")
    pool = GrpcPool([GrpcConfig(target=f"127.0.0.1:{port}", tls=tls) for port in os.environ["PORTS"].split()])
    text = "version: 1\\nname: p\\n" + (f"resilience: {{hedge_after: {hedge}}}\\n" if hedge else "")
    policy = parse_policy(text, backends={"cloud": Location.CLOUD})
    return hybrid_llm.HybridLLM([pool], policy, sensors=hybrid_llm.FixedSensors())

LONG = "case 1: 2000 words"

def drain(stream):
    try:
        for _ in stream:
            pass
    except hybrid_llm.HybridLLMError:
        pass

def busy(make, count, seconds):
    def work():
        while True:
            drain(make())
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(seconds)

held = []
def use_up(spare):
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(spare):
            os.close(held.pop())

def last_line():
    print("LAST", time.monotonic(), flush=True)
"""
_LOOP_LEFT = (
    "llm, loop = cloud(), asyncio.new_event_loop()\n"
    "for each in (llm, hybrid_llm): loop.run_until_complete(each.agenerate('case 1: 3 words', max_tokens=3))\n"
    "s = hybrid_llm.stream('Count from 3 to 20.', max_tokens=50); next(s)"
)
EXITS = {
    "nothing open": "cloud().close(); hybrid_llm.generate('Hi.', max_tokens=1); last_line()",
    "device, one chunk": "next(hybrid_llm.stream('Count from 3 to 20.', max_tokens=50)); last_line()",
    "device, stream open": "s = hybrid_llm.stream('Count from 3 to 20.', max_tokens=50); next(s); last_line()",
    "device, 20 threads": (
        "hybrid_llm.generate('Hi.', max_tokens=1)\n"
        "busy(lambda: hybrid_llm.stream('Count from 3 to 20.', max_tokens=200), 20, 0.5); last_line()"
    ),
    "cloud, stream open": "s = cloud().stream(LONG, max_tokens=9000); next(s); last_line()",
    "cloud, hedged": "s = cloud('50ms').stream(LONG, max_tokens=9000); next(s); last_line()",
    "cloud, 20 threads": "llm = cloud(); busy(lambda: llm.stream(LONG, max_tokens=9000), 20, 0.5); last_line()",
    "cloud, 20 hedged": "llm = cloud('50ms'); busy(lambda: llm.stream(LONG, max_tokens=9000), 20, 0.5); last_line()",
    "asyncio, open": (
        "async def main():\n"
        "    global s, e\n"
        "    s = cloud().astream(LONG, max_tokens=9000); await anext(s)\n"
        "    e = hybrid_llm.astream('Count from 3 to 20.', max_tokens=200); await anext(e)\n"
        "    last_line()\n"
        "asyncio.run(main())"
    ),
    "asyncio in a thread": (
        "llm = cloud()\n"
        "async def main():\n"
        "    async for _ in llm.astream(LONG, max_tokens=9000): pass\n"
        "threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()\n"
        "time.sleep(0.5); last_line()"
    ),
    "event loop not closed": f"{_LOOP_LEFT}; last_line()",
    "no descriptor left": f"{_LOOP_LEFT}; use_up(0); last_line()",
}
"""What a program may leave open when it ends."""
_FORK = """
def outcome(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except UnsupportedRuntime:
            os._exit(40)
        except BaseException as error:
            print(repr(error)[:200], file=sys.stderr)
            os._exit(41)
        sys.exit(0)  # a normal end, with all that Python does then
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return {0: "ok", 40: "UnsupportedRuntime", 41: "another error"}.get(code, f"ended by signal {-code}")
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"

def count(child):
    return collections.Counter(outcome(child) for _ in range(COUNT))

def popen():
    import subprocess
    def one():
        try:
            return "ok" if subprocess.Popen(["true"], preexec_fn=lambda: None).wait(20) == 0 else "failed"
        except Exception as error:
            return type(error).__name__
    return collections.Counter(one() for _ in range(COUNT))

def processes():
    import multiprocessing
    context, found = multiprocessing.get_context("fork"), collections.Counter()
    for _ in range(COUNT):
        process = context.Process(target=time.time)
        process.start()
        process.join(20)
        found["ok" if process.exitcode == 0 else f"exit code {process.exitcode}"] += 1
        process.kill()
    return found

def used():
    llm = cloud()
    busy(lambda: llm.stream(LONG, max_tokens=400), 4, 0.7)
    return llm

def used_async():
    llm = cloud()
    async def main():
        async def one():
            while True:
                async for _ in llm.astream(LONG, max_tokens=400): pass
        await asyncio.gather(*[one() for _ in range(4)])
    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    time.sleep(0.7)
    return llm

def used_device():
    hybrid_llm.generate("Hi.", max_tokens=1)
    busy(lambda: hybrid_llm.stream("Count from 3 to 20.", max_tokens=50), 2, 0.5)
    return hybrid_llm

ASK = {"prompt": "case 1: 3 words", "deadline": 15.0}
def ask_async(make): return lambda: asyncio.run(make().agenerate(**ASK))
"""
FORKS = {
    "unused child, sync streams": ("used(); found = count(lambda: None)", "ok"),
    "unused child, async streams": ("used_async(); found = count(lambda: None)", "ok"),
    "unused child, device streams": ("used_device(); found = count(lambda: None)", "ok"),
    "unused child, multiprocessing": ("used_async(); found = processes()", "ok"),
    "unused child, preexec_fn": ("used_async(); found = popen()", "ok"),
    "closes the parent's stream": (
        "llm = cloud(); s = llm.stream(LONG); next(s); found = count(lambda: (s.close(), llm.close()))",
        "ok",
    ),
    "reads the parent's stream": (
        "s = cloud().stream(LONG); next(s); found = count(lambda: next(s))",
        "UnsupportedRuntime",
    ),
    "parent's client": ("llm = used(); found = count(lambda: llm.generate(**ASK))", "UnsupportedRuntime"),
    "parent's client, asyncio": ("llm = used(); found = count(ask_async(lambda: llm))", "UnsupportedRuntime"),
    "new client": ("used(); found = count(lambda: cloud().generate(**ASK))", "UnsupportedRuntime"),
    "new client, asyncio": ("used_async(); found = count(ask_async(cloud))", "UnsupportedRuntime"),
    "new client, hedged": ("used(); found = count(lambda: cloud('50ms').generate(**ASK))", "UnsupportedRuntime"),
    "hybrid_llm.generate": (
        "used_device(); found = count(lambda: hybrid_llm.generate('Hi.', max_tokens=1))",
        "UnsupportedRuntime",
    ),
    "first client, after an import": (
        "import hybrid_llm.backends.grpc.pool, hybrid_llm.router.client\n"
        "found = count(lambda: cloud().generate(**ASK))",
        "ok",
    ),
    "first client, asyncio": (
        "import hybrid_llm.backends.grpc.pool, hybrid_llm.router.client\nfound = count(ask_async(cloud))",
        "ok",
    ),
    "first client, device": ("found = count(lambda: hybrid_llm.generate('Hi.', max_tokens=1))", "ok"),
}
"""What parent and child do, and what must become of each child."""
LOOPS = """
def sockets():
    folder = "/proc/self/fd"
    links = [f"{folder}/{name}" for name in os.listdir(folder)]
    return sum(os.readlink(link).startswith("socket") for link in links if os.path.islink(link))

llm = cloud()
async def one():
    await llm.agenerate("case 1: 3 words", deadline=30.0)
asyncio.run(one())
before = sockets()
for _ in range(COUNT):
    asyncio.run(one())
for _ in range(COUNT // 10):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(one())
    loop.close()
print("FOUND", sockets() - before, flush=True)
llm.close()
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What came of one scene, each outcome with its number; *bad* ones are not as they should be."""

    scene: str
    outcomes: Mapping[str, int]
    bad: int
    note: str = ""

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {number}" for name, number in self.outcomes.items())
        return f"{self.scene:<36}{counts}{'  BAD' if self.bad else ''}   {self.note}".rstrip()


def world() -> World:
    return World(nodes=2, options=NodeOptions(slots=64, queue=64, first_s=0.02))


def environment(made: World) -> dict[str, str]:
    ports = " ".join(str(node.port) for node in made.nodes)
    return {**os.environ, "APP_TLS": str(made.app_tls), "PORTS": ports, "GRPC_VERBOSITY": "NONE"}


def program(made: World, text: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE + text]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment(made), stdout=pipe, stderr=pipe, text=True)


def ended(made: World, text: str, seconds: float = HANG_S) -> tuple[str, float, str]:
    """How the program *text* ended, seconds after its last line, and the end of what it wrote."""
    process = program(made, text)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return "hung", seconds, err[-500:]
    now = time.monotonic()
    last = [float(line.split()[1]) for line in out.splitlines() if line.startswith("LAST")]
    code = process.returncode
    how = "ok" if code == 0 and last else f"signal {-code}" if code < 0 else f"exit code {code}"
    how = "ignored exception" if how == "ok" and "Exception ignored" in err else how
    return how, now - last[0] if last else 0.0, err[-500:]


def exits(made: World, count: int, scenes: Mapping[str, str] = EXITS) -> Iterator[Line]:
    """Each program *count* times, two at once."""
    spare = 0.0
    for name, text in scenes.items():
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _, text=text: ended(made, text), range(count)))
        times = sorted(seconds for _, seconds, _ in found)
        spare = spare or times[-1]
        late = sum(seconds > spare + EXIT_S for seconds in times)
        outcomes = Counter(how for how, _, _ in found)
        bad = count - outcomes["ok"] + late
        errors = next((said for how, _, said in found if how != "ok"), "")
        note = f"median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s"
        yield Line(f"exit: {name}", outcomes, bad, f"{note} {errors}")


def forks(made: World, count: int, scenes: Mapping[str, tuple[str, str]] = FORKS) -> Iterator[Line]:
    """Each scene with *count* children."""
    for name, (text, expected) in scenes.items():
        whole = (
            f"COUNT = {count}\n{_FORK}\n{text}\nfor item in found.items(): print('FOUND', *item, sep='|')\nos._exit(0)"
        )
        out, err = program(made, whole).communicate(timeout=60.0 + 21.0 * count)
        rows = [line.split("|") for line in out.splitlines() if line.startswith("FOUND")]
        outcomes = {how: int(number) for _, how, number in rows}
        bad = count - outcomes.get(expected, 0)
        yield Line(f"fork: {name}", outcomes, bad, err[-500:] if bad else "")


def loops(made: World, count: int) -> Line:
    """*count* event loops one after the other, with one client."""
    out, err = program(made, f"COUNT = {count}\n{LOOPS}").communicate(timeout=60.0 + count)
    found = next((int(line.split()[1]) for line in out.splitlines() if line.startswith("FOUND")), count)
    return Line(f"loops: {count}", {"sockets left": found}, max(0, found - 2), err[-500:] if found > 2 else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exits", type=int, default=40, help="programs in all (40; 500 for the full run)")
    parser.add_argument("--forks", type=int, default=48, help="children in all (48; 200 for the full run)")
    parser.add_argument("--loops", type=int, default=50, help="event loops (50; 200 for the full run)")
    options = parser.parse_args()
    bad = 0
    with world() as made:
        for line in _lines(made, options):
            print(line, flush=True)
            bad += line.bad
    return int(bad > 0)


def _lines(made: World, options: argparse.Namespace) -> Iterator[Line]:
    yield from forks(made, -(-options.forks // len(FORKS)))
    yield from exits(made, -(-options.exits // len(EXITS)))
    yield loops(made, options.loops)


if __name__ == "__main__":
    sys.exit(main())
