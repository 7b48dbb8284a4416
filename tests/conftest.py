"""What holds for all tests: a property is judged by what it states, never by how long it takes; crashes are shown."""

import atexit
import faulthandler
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests import postgres, weights

settings.register_profile("hybrid-llm", deadline=None)
settings.load_profile("hybrid-llm")

# pytest's own faulthandler ends with the session; a native library may crash in a child process, or at exit.
os.environ["PYTHONFAULTHANDLER"] = "1"
atexit.register(faulthandler.enable)

# No test may see the models that this user has added; the folder is not there, and children inherit it.
os.environ["HYBRID_LLM_MODELS"] = str(Path(tempfile.gettempdir()) / f"hybrid-llm-no-models-{os.getpid()}")

# A shell ignores Ctrl-C for what it starts in the background, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a GGUF of 98 MB; mark the test `weights`. Skipped where it cannot be downloaded."""
    try:
        return weights.smollm2_gguf()
    except weights.Unreachable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_gguf: Path) -> Path:
    """The same weights as a model folder of the device, shared by all tests: do not change it."""
    from tests.smollm2 import edge_folder

    return edge_folder()


@pytest.fixture(scope="module")
def s3_endpoint():
    """The URL of an empty S3 server of this module, by moto; skipped without it."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server, shared by the tests of a process; skipped where its programs are missing."""
    with postgres.running() as server:
        yield server
