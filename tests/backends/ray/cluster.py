"""Ray Serve with our application, a front before it and a client, on one machine that has no way to any other.

It runs in namespaces of its own, so that nothing leaves, no port is taken, and all of it ends with its first process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from hybrid_llm.backends.node.ray.app import SERVICER
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority

ROOT = Path(__file__).resolve().parents[3]
NODE_MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
VARIABLE = "HYBRID_LLM_RAY_PYTHON"
"""Names the Python of an environment with Ray Serve, torch and transformers."""
_DASHBOARD = "http://127.0.0.1:8265"
_WAIT_S = 240.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
Json = dict[str, Any]


def isolated(module: str, *arguments: str, timeout: float) -> str:
    """What *module* prints, run with *arguments* in namespaces of its own, where nothing but loopback is reached."""
    unshare = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-m", module, *arguments]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*unshare, *command],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        timeout=timeout,
        check=True,
        text=True,
        cwd=ROOT,
    )
    return done.stdout


def until(condition, seconds: float = _WAIT_S) -> float:
    """Wait until *condition* holds; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.1)
    return time.monotonic() - began


class Cluster:
    """One head of Ray on loopback, started by *python*; logs go to *folder*. A context manager."""

    def __init__(self, python: str, folder: Path) -> None:
        self._python, self._folder = python, folder
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        options = {"num-cpus": 4, "node-ip-address": "127.0.0.1", "dashboard-host": "127.0.0.1"}
        options |= {"object-store-memory": 100_000_000}
        words = [f"--{name}={value}" for name, value in options.items()]
        command = [self._python, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
        log = self._stack.enter_context((self._folder / "ray.log").open("wb"))
        process = subprocess.Popen(
            [*command, *words], env={**os.environ, **_ENVIRONMENT}, stdout=log, stderr=log, cwd=self._folder
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        until(lambda: self._answers("/usage_stats_enabled"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, path: str, body: Json | None = None) -> Json:
        """What the dashboard answers; with a *body* it is changed."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(_DASHBOARD + path, data, {"content-type": "application/json"})
        request.method = "GET" if body is None else "PUT"
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read() or b"{}")

    def _answers(self, path: str, body: Json | None = None) -> bool:
        try:
            self.ask(path, body)
        except OSError:
            return False
        return True

    def deploy(self, args: Json, *, least: int, most: int, ongoing: float = 4) -> None:
        """Ask Serve to run our application with *args*, on *least* to *most* replicas."""
        scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": ongoing}
        scaling |= {"upscale_delay_s": 1, "downscale_delay_s": 10, "look_back_period_s": 3}
        engine = {"name": "engine", "ray_actor_options": {"num_cpus": 0.1}, "autoscaling_config": scaling}
        application = {"name": "hybrid-llm", "import_path": "hybrid_llm.backends.node.ray.app:build"}
        application |= {"args": args, "route_prefix": "/", "deployments": [engine]}
        body = {"grpc_options": {"port": 9000, "grpc_servicer_functions": [SERVICER]}, "applications": [application]}
        until(lambda: self._answers("/api/serve/applications/", body))

    def replicas(self) -> list[Json]:
        """The replicas that run, and have taken the latest configuration."""
        application = self.ask("/api/serve/applications/").get("applications", {}).get("hybrid-llm", {})
        if application.get("status") == "DEPLOY_FAILED":
            raise RuntimeError(application.get("message") or str(application.get("deployments")))
        replicas = application.get("deployments", {}).get("engine", {}).get("replicas", [])
        return [each for each in replicas if each["state"] == "RUNNING"]

    @staticmethod
    def kill(pid: int) -> None:
        """Kill a replica at once, as the end of its machine would; its engine's process sees the pipe close."""
        os.kill(pid, signal.SIGKILL)


class Front:
    """`hybrid-llm serve` with *options*, and certificates; a context manager."""

    def __init__(self, folder: Path, model: Path, name: str, **options: object) -> None:
        self.tls, self._ready, self._log = folder / f"{name}.tls", folder / f"{name}.ready", folder / f"{name}.log"
        self._options = {"model": model, "listen": "127.0.0.1:0", "tls": self.tls, "ready-file": self._ready, **options}
        self._stack = ExitStack()
        self.target = ""

    def __enter__(self) -> Front:
        make_authority(self.tls)
        issue(self.tls, "node", kind="node", hosts=("127.0.0.1",))
        issue(self.tls, "app")
        words = [f"--{name.replace('_', '-')}={value}" for name, value in self._options.items()]
        log = self._stack.enter_context(self._log.open("wb"))
        command = [sys.executable, "-m", "hybrid_llm.cli.main", "serve", "--quiet", *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        until(lambda: self._ready.exists() or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError(self._log.read_text("utf-8"))
        self.target = f"127.0.0.1:{self._ready.read_text('ascii').strip()}"
        self.pid = process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def files(self) -> TLSFiles:
        """The certificate of a client."""
        return TLSFiles.from_dir(self.tls, "app")

    def used(self) -> float:
        """Seconds of the processor so far, of it and its children."""
        mine = psutil.Process(self.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (mine, *mine.children(recursive=True)))
