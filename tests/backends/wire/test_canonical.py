"""Our own TLS check and gRPC read one canonical form of every host and every PEM file, so they never disagree."""

import socket

import pytest

from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.certificates import inspect
from hybrid_llm.cli.main import main
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.hosts import canonical_address, canonical_host, certifiable_host

NAMES = ["localhost", "bücher.example", "*.nodes.example", "under_score.example", "127.0.0.1", "0:0:0:0:0:0:0:1"]


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=NAMES)
    issue(folder, "app")
    return folder


@pytest.mark.parametrize(
    "spelling",
    [
        "LocalHost",
        "localhost.",
        "bücher.example",
        "BÜCHER.example.",
        "xn--bcher-kva.example",
        "a.nodes.example",
        "under_score.example",
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "0:0:0:0:0:0:0:1",
        "::0001",
    ],
)
def test_a_name_in_any_spelling_is_verified_by_both(named, tools, spelling):
    with tools.Node(TLSFiles.from_dir(named, "node")) as node:
        cloud = tools.backend(node.target, TLSFiles.from_dir(named, "app"), server_name=spelling)
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        cloud.close()


@pytest.mark.parametrize("host", ["[0:0:0:0:0:0:0:1]", "[::0001]", "127.0.0.1", "LocalHost"])
def test_a_target_in_any_spelling_is_reached(named, tools, host):
    listen = "[::1]:0" if host.startswith("[") else "127.0.0.1:0"
    if "::" in listen and not _has_ipv6():
        pytest.skip("this machine has no IPv6 on loopback")
    with tools.Node(TLSFiles.from_dir(named, "node"), listen=listen) as node:
        cloud = tools.backend(f"{host}:{node.port}", TLSFiles.from_dir(named, "app"))
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        cloud.close()


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("file", ["ca", "cert", "key"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"subject: someone\n\n" + data + b"\nmore text\n",
        lambda data: data.rstrip(),
    ],
    ids=["byte order mark", "UTF-16", "CRLF", "text around", "no last line end"],
)
def test_a_file_in_any_encoding_of_pem_serves_both(named, tools, tmp_path, file, spell):
    files = TLSFiles.from_dir(named, "app")
    spelled = tmp_path / "spelled.pem"
    spelled.write_bytes(spell(getattr(files, file).read_bytes()))
    fields = {name: getattr(files, name) for name in ("ca", "cert", "key")} | {file: spelled}
    with tools.Node(TLSFiles.from_dir(named, "node")) as node:
        cloud = tools.backend(node.target, TLSFiles(**fields))
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        cloud.close()


def test_a_bundle_with_an_authority_twice_or_beside_others_serves_both(named, pki, tools, tmp_path):
    files, bundle = TLSFiles.from_dir(named, "app"), tmp_path / "bundle.pem"
    own = files.ca.read_bytes()
    bundle.write_bytes(pki.foreign_app.ca.read_bytes() + own + own)
    with tools.Node(TLSFiles.from_dir(named, "node")) as node:
        cloud = tools.backend(node.target, TLSFiles(ca=bundle, cert=files.cert, key=files.key))
        assert tools.answer(cloud.stream(tools.cleared("hi")))
        cloud.close()


def test_a_bundle_with_a_broken_certificate_is_refused_before_any_call(named, tools, tmp_path):
    files, bundle = TLSFiles.from_dir(named, "app"), tmp_path / "bundle.pem"
    own = files.ca.read_bytes()
    bundle.write_bytes(own + own.replace(b"MII", b"MIJ", 1))
    with pytest.raises(ConfigError, match="cannot be read"):
        tools.backend("127.0.0.1:7443", TLSFiles(ca=bundle, cert=files.cert, key=files.key))


@pytest.mark.parametrize(
    "host", ["127.0.0.01", "127.1", "1.2.3", "0x7f000001", "a..b", "-a", "a-.b", "a b", "x" * 64, "fe80::1%eth0", "b:1"]
)
def test_what_has_no_canonical_form_is_refused_by_every_entry(named, tools, host):
    with pytest.raises(ValueError, match="`"):
        canonical_host(host)
    with pytest.raises(ConfigError):
        issue(named, "refused", kind="node", hosts=[host])
    with pytest.raises(ConfigError):
        tools.backend("127.0.0.1:7443", TLSFiles.from_dir(named, "app"), server_name=host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "fe80::1", "*", "*.com", "a.*.example", "**.a.b"],
)
def test_no_certificate_is_made_for_what_none_can_serve(named, host, capsys):
    with pytest.raises(ValueError, match="`"):
        certifiable_host(host)
    code = main(["certs", "issue", str(named), "--name", "refused", "--kind", "node", "--host", host])
    assert code != 0
    assert not (named / "refused.pem").exists()
    assert host in capsys.readouterr().err


def test_a_certificate_names_hosts_in_their_canonical_form(named):
    assert {"bücher.example".encode("idna").decode(), "::1", "*.nodes.example"} <= set(inspect(named / "node.pem").sans)


def test_canonical_forms_are_fixed_points():
    for text in ("[::1]:7443", "127.0.0.1:1", "xn--bcher-kva.example:65535"):
        host, port = canonical_address(text)
        assert canonical_host(host) == host
        assert str(port) == text.rpartition(":")[2]


def test_a_configuration_keeps_the_target_as_written(named):
    written = GrpcConfig(target="LocalHost:7443", tls=TLSFiles.from_dir(named, "app"))
    assert written.target == "LocalHost:7443"
