"""`hybrid-llm health`: what a probe of a container learns of a node and of a gateway, by the exit code alone."""

from __future__ import annotations

import http.server
import socket
import threading
from contextlib import contextmanager

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.config.gateway import TlsFiles
from tests.backends.wire import fakes
from tests.backends.wire.fakes import TLSFiles
from tests.gateway.conftest import fakes as backends
from tests.gateway.conftest import served


@pytest.fixture(scope="module")
def running(tls):
    """A node with a fake engine."""
    with fakes.Node(TLSFiles.from_dir(tls, "node")) as node:
        yield node


@pytest.fixture
def hung():
    """A listener that accepts connections and says nothing, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def gateway(**options):
    edge, cloud = backends()
    policy = builtin_policy("balanced", backends={edge.name: edge.location, cloud.name: cloud.location})
    with served(HybridLLM([edge, cloud], policy), **options) as url:
        yield url


@contextmanager
def answering(status):
    """An HTTP server that gives every request *status*."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("location", "/health")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_node_that_serves_is_healthy(cli, tls, running):
    result = cli("health", running.target, "--tls", tls)
    assert (result.code, result.out) == (0, f"{running.target} serves\n")
    assert cli("health", running.target, "--tls", tls, "--quiet").out == ""


def test_a_node_whose_engine_is_down_is_live_and_does_not_serve(cli, tls):
    with fakes.Node(TLSFiles.from_dir(tls, "node")) as node:
        node.engine.healthy = False
        node.do(node.server._listener.update_health())
        result = cli("health", node.target, "--tls", tls)
        assert result.code == 1
        assert "does not serve" in result.err
        assert cli("health", node.target, "--tls", tls, "--live").code == 0


def test_a_name_of_the_certificate_may_stand_for_an_address(cli, tmp_path):
    make_authority(tmp_path)
    issue(tmp_path, "node", kind="node", hosts=["node.example"])
    issue(tmp_path, "app")
    with fakes.Node(TLSFiles.from_dir(tmp_path, "node")) as node:
        assert cli("health", node.target, "--tls", tmp_path).code == 6
        assert cli("health", node.target, "--tls", tmp_path, "--server-name", "node.example").code == 0


@pytest.mark.parametrize("live", [(), ("--live",)])
def test_what_does_not_answer_is_not_even_live(cli, tls, hung, live):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"127.0.0.1:{listener.getsockname()[1]}"
    for target in (hung, closed):
        assert cli("health", target, "--tls", tls, "--timeout", "0.3", *live).code == 5
        assert cli("health", f"http://{target}", "--timeout", "0.3", *live).code == 5


def test_a_node_of_another_authority_is_not_trusted(cli, running, tmp_path):
    make_authority(tmp_path)
    issue(tmp_path, "app")
    assert cli("health", running.target, "--tls", tmp_path, "--live").code == 6


def test_a_node_is_asked_with_a_client_certificate_only(cli, tls, running):
    result = cli("health", running.target)
    assert (result.code, "--tls DIR" in result.err) == (3, True)
    assert cli("health", running.target, "--tls", tls, "--name", "node").code == 3
    assert cli("health", running.target, "--tls", tls, "--name", "absent").code == 3


def test_a_gateway_is_asked_at_its_health_route(cli):
    with gateway() as url:
        assert cli("health", url).code == 0
        assert cli("health", f"{url}/nowhere").code == 1


@pytest.mark.parametrize("status", [204, 302, 404, 500, 503])
def test_any_status_but_200_is_live_and_does_not_serve(cli, status):
    with answering(status) as url:
        assert cli("health", url).code == 1
        assert cli("health", url, "--live").code == 0


def test_a_gateway_with_tls_is_trusted_by_its_authority_alone(cli, tls, tmp_path):
    files = TlsFiles(cert=tls / "node.pem", key=tls / "node.key")
    with gateway(tls=files) as url:
        secure = url.replace("http:", "https:")
        assert cli("health", secure, "--tls", tls).code == 0
        assert cli("health", secure).code == 6
        assert cli("health", secure, "--tls", tmp_path).code == 3


@pytest.mark.parametrize("target", ["ftp://h:1", "http://", "http://h:x", "http://u@h:1", "[::1", "h"])
def test_what_is_no_target_is_a_wrong_usage(cli, tls, target):
    assert cli("health", target, "--tls", tls).code in (2, 3)
