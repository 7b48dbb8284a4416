"""Runs one optional part in a network namespace and prints what it tried to reach: `parts.py PART FOLDER`.

Run by `test_parts`. A part that a test should add is a function here, named as its extra in pyproject.toml.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.network import NOT_ALLOWED, Witness, leave  # noqa: E402

CONFIG = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
TEXT = "My name is Jane Doe, mail jane@example.co.uk, see https://www.example.org/a and call +1 202 555 0147."


def _cli(*arguments: object) -> None:
    from hybrid_llm.cli.main import main

    status = main([str(argument) for argument in arguments])
    assert status == 0, f"{arguments[:2]} ended with {status}"


def _configured(folder: Path, more: str = "") -> None:
    from hybrid_llm import HybridLLM

    path = folder / "hybrid.yaml"
    path.write_text(CONFIG + more, encoding="utf-8")
    with HybridLLM.from_config(path) as llm:
        llm.generate("Is this review positive? 'A delight.'", max_tokens=4)


def base(folder: Path) -> None:
    """The device answers."""
    _configured(folder)


def names(_: Path) -> None:
    from hybrid_llm.router.privacy.detectors.models.rampart import open_rampart

    assert list(open_rampart().find(TEXT))


def presidio(folder: Path) -> None:
    import spacy

    from hybrid_llm.router.privacy.detectors.models.presidio import PresidioDetector, open_analyzer

    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Jane"}])
    pipeline.to_disk(folder / "model")
    detector = PresidioDetector(open_analyzer(str(folder / "model")), min_score=0.3)  # every recognizer
    kinds = {finding.kind for finding in detector.find(TEXT)}
    assert {"person", "email_address", "url", "phone_number"} <= kinds, kinds


def report(folder: Path) -> None:
    _cli("policy", "simulate", "balanced", "--requests", 50, "--html", folder / "report.html")


def metrics(folder: Path) -> None:
    _configured(folder, "metrics: {listen: '127.0.0.1:9477'}\n")


def otel(folder: Path) -> None:
    """A collector over loopback gets the reports, and no proxy of the environment does."""
    import os

    from tests.otlp import Collector

    os.environ |= {"HTTP_PROXY": "http://192.0.2.1:1", "ALL_PROXY": "http://192.0.2.1:1"}
    with Collector() as collector:
        _configured(folder, f"telemetry: {{exporter: otlp, endpoint: '{collector.url}'}}\n")
        assert collector.spans()


def litert(folder: Path) -> None:
    import zipfile

    from hybrid_llm.backends.litert.spec import LiteRTConfig

    with zipfile.ZipFile(ROOT / "tests/backends/litert/models.zip") as models:
        models.extractall(folder)
    backend = LiteRTConfig(model=folder / "texts", load="eager").open()
    assert backend.state().ready
    backend.close()


def litert_convert(folder: Path) -> None:
    import litert_torch  # noqa: F401

    from tests.encoders import trained

    _cli("models", "convert", trained(folder / "hf", tokens=False), folder / "converted", "--to", "litert")


def cli(_: Path) -> None:
    _cli("signals", "--once")


def dbus(_: Path) -> None:
    import jeepney  # noqa: F401

    _cli("signals", "--once", "--json")


def gpu(_: Path) -> None:
    import pynvml  # noqa: F401

    _cli("signals", "--once", "--json")


def node(_: Path) -> None:
    from hybrid_llm.backends.node.engine import EngineConfig
    from hybrid_llm.backends.node.engines.load import load_engine

    load_engine(EngineConfig(model=ROOT / "examples" / "models" / "hybrid-demo-node"))


def prepare(folder: Path) -> None:
    source = ROOT / "examples" / "models" / "hybrid-demo-node"
    _cli("models", "convert", source, folder / "converted", "--precision", "fp32")
    _prepare_data(folder)
    _tune(folder)


def _tune(folder: Path, **launch: object) -> None:
    """By the trainer of trl, which reports home unless it is kept from it."""
    from hybrid_llm.prepare.data.folder import DataFormat
    from hybrid_llm.prepare.tuning.settings import Launch
    from tests.prepare.tuning.samples import Samples, tune

    samples, kind = Samples(folder), DataFormat.PREFERENCE
    launched = Launch(**launch)  # type: ignore[arg-type]
    tune(samples.decoder, samples.data(kind), folder / "tuned", method="lora", steps=2, launch=launched)


def ray(folder: Path) -> None:
    """Two processes on this machine."""
    _tune(folder, processes=2, ray="local")


def _prepare_data(folder: Path) -> None:
    import datasets

    from hybrid_llm.prepare.data.step import PrepareData
    from hybrid_llm.prepare.step import Input, Work

    datasets.Dataset.from_dict({"text": [TEXT, "A text without a person."]}).save_to_disk(str(folder / "saved"))
    (folder / "data").mkdir()
    step = PrepareData(sources=(Input(str(folder / "saved")),), splits={"train": 1.0})
    step.run(Work(out=folder / "data", scratch=folder / "scratch"))


def lm_eval(folder: Path) -> None:
    """Tasks of the user's own data; lm-eval's catalogue would fetch."""
    (folder / "mine.jsonl").write_text('{"start": "Hello", "end": " world"}\n', encoding="utf-8")
    (folder / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/mine.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: '{{start}}'\ndoc_to_target: '{{end}}'\n"
        "metric_list: [{metric: perplexity}]\n",
        encoding="utf-8",
    )
    model = ROOT / "examples" / "models" / "hybrid-demo-node"
    _cli("models", "evaluate", model, "--lm-eval", "mine", "--lm-eval-path", folder)


def hub(_: Path) -> None:
    """A source that the user does not name is not asked, though its library is there."""
    import huggingface_hub  # noqa: F401

    _listed("hf:org/model")


def s3(_: Path) -> None:
    """As `hub`."""
    import s3fs  # noqa: F401

    _listed("s3://bucket/model.gguf")


def registry(folder: Path) -> None:
    from hybrid_llm.backends.edge import embedded_model

    at = ("--registry", folder / "registry")
    _cli("models", "publish", embedded_model(), "--name", "edge", "--alias", "prod", *at)
    _cli("models", "pull", "edge@prod", "--into", folder / "edge", *at)
    _cli("models", "list", "--remote", "--index", f"sqlite:///{folder / 'index.db'}", *at)


def postgres(_: Path) -> None:
    """A database that nobody named is not looked for; this one is, on this machine, and is not there."""
    from hybrid_llm.backends.models.registry.index import RegistryIndex
    from hybrid_llm.core.errors import ConfigError

    with suppress(ConfigError):
        RegistryIndex("postgresql://postgres@127.0.0.1:1/none")


def openai(folder: Path) -> None:
    """A server over loopback is called, and nothing else is reached, not even a proxy of the environment."""
    import os

    from hybrid_llm import HybridLLM
    from tests.backends.http.server import WHOLE, events, head, scripted

    os.environ |= {"HTTP_PROXY": "http://192.0.2.1:1", "ALL_PROXY": "http://192.0.2.1:1"}
    with scripted([head(), events(*WHOLE)]) as server:
        path = folder / "hybrid.yaml"
        local = f"  local: {{kind: openai, base_url: '{server.url}', model: m, location: edge}}\n"
        path.write_text(f"version: 1\nbackends:\n  edge: {{kind: onnx, model: embedded}}\n{local}", encoding="utf-8")
        with HybridLLM.from_config(path) as llm:
            assert llm.generate("Hello", backends=["local"]).text == "one two"


def gateway(folder: Path) -> None:
    """A request over loopback is answered, and nothing else is reached."""
    import http.client

    from hybrid_llm import HybridLLM
    from tests.gateway.conftest import served

    path = folder / "hybrid.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    body = json.dumps({"model": "auto", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]})
    with served(HybridLLM.from_config(path)) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()


def mcp(folder: Path) -> None:
    """A host over standard input and output is answered, and nothing is reached."""
    import asyncio

    from mcp import Client

    from hybrid_llm import HybridLLM
    from hybrid_llm.integrations.mcp import mcp_server

    path = folder / "hybrid.yaml"
    path.write_text(CONFIG, encoding="utf-8")

    async def ask() -> None:
        async with HybridLLM.from_config(path) as llm, Client(mcp_server(llm)) as client:
            assert not (await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 4})).is_error

    asyncio.run(ask())


def _neighbour(folder: Path) -> Path:
    """A `hybrid.yaml` for an integration, of which the library is in the environment of `make clients`."""
    path = folder / "hybrid.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def langchain(folder: Path) -> None:
    from hybrid_llm.integrations.langchain import ChatHybridLLM

    assert ChatHybridLLM(config=_neighbour(folder), max_tokens=4).invoke("Hello").content


def llama_index(folder: Path) -> None:
    from hybrid_llm.integrations.llama_index import HybridLLM

    assert HybridLLM(config=_neighbour(folder), max_tokens=4).complete("Hello").text


def pydantic_ai(folder: Path) -> None:
    from pydantic_ai import Agent

    from hybrid_llm.integrations.pydantic_ai import HybridModel

    assert Agent(HybridModel(config=_neighbour(folder), settings={"max_tokens": 4})).run_sync("Hello").output


def litellm(folder: Path) -> None:
    """LiteLLM fetches prices of models when it is imported, unless it is told not to."""
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    from hybrid_llm.integrations.litellm import HybridCustomLLM

    handler = HybridCustomLLM(config=_neighbour(folder))
    litellm.custom_provider_map = [{"provider": "hybrid", "custom_handler": handler}]
    assert litellm.completion("hybrid/auto", [{"role": "user", "content": "Hello"}], max_tokens=4).choices


def llm(folder: Path) -> None:
    import os

    os.environ |= {"HYBRID_LLM_CONFIG": str(_neighbour(folder)), "LLM_USER_PATH": str(folder)}
    from llm import get_model

    assert get_model("hybrid-llm").prompt("Hello", max_tokens=4).text()


def federated(folder: Path) -> None:
    """A server and three clients, in the environment of `make federated`."""
    from tests.prepare.federated.alone import tune

    tune(folder)


NEIGHBOURS = (langchain, llama_index, pydantic_ai, litellm, llm)
"""Of libraries that use us, in the environment of `make clients`."""


def _listed(named: str) -> None:
    from hybrid_llm.backends.models.sources.table import parse_source

    assert parse_source(named).remote
    _cli("models", "list", "--available")


def python_connects(_: Path) -> None:
    """The witness itself: what it must see."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(0.05)
        one.connect(("192.0.2.1", 443))


def python_resolves(_: Path) -> None:
    with suppress(OSError):
        urllib.request.urlopen("http://192.0.2.1.example.org/", timeout=0.05)


def native_sends(_: Path) -> None:
    """A child that no audit hook sees, as native code in this process would not be."""
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9999))"
    subprocess.run([sys.executable, "-c", code], check=True)


PARTS: dict[str, Callable[[Path], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        base,
        names,
        presidio,
        report,
        metrics,
        otel,
        cli,
        dbus,
        gpu,
        node,
        prepare,
        lm_eval,
        ray,
        litert,
        litert_convert,
        hub,
        s3,
        registry,
        postgres,
        gateway,
        mcp,
        openai,
        federated,
        *NEIGHBOURS,
    )
}
CAUGHT: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (python_connects, python_resolves, native_sends)
}


def main() -> None:
    """Run the part; the last line of standard output is what it tried to reach, as JSON."""
    if refused := leave():
        print(refused)
        sys.exit(NOT_ALLOWED)
    witness = Witness()
    {**PARTS, **CAUGHT}[sys.argv[1]](Path(sys.argv[2]))
    print(f"\n{json.dumps(witness.attempts())}")


if __name__ == "__main__":
    main()
