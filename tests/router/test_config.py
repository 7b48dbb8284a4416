"""hybrid.yaml is read strictly; every error is reported with its position, and all at once."""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hybrid_llm.backends.edge import EdgeConfig, embedded_model
from hybrid_llm.backends.grpc import GrpcSpec
from hybrid_llm.core.errors import ConfigError, InvalidRequest, PolicyError
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.request import GenerateOptions, Location
from hybrid_llm.core.secret import Secret
from hybrid_llm.policies.reader.plain import config_source
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import config_schema, load_config, parse_config, read_config
from hybrid_llm.router.privacy.detectors.models.ner import NerSpec
from hybrid_llm.router.privacy.detectors.models.presidio import PresidioSpec
from hybrid_llm.router.request import make_request
from hybrid_llm.router.spending.ledger import Price

SCHEMA = Draft202012Validator(config_schema())
GOOD = """\
version: 1
policy: policy.yaml
backends:
  edge:  {kind: onnx, model: embedded, load: eager, threads: 2, energy_per_1k_tokens_j: 80}
  cloud:
    {kind: grpc, target: "127.0.0.1:7443", tls: {ca: ca.pem, cert: app.pem, key: app.key}, price_per_1k_tokens: 0.5}
defaults: {max_tokens: 64, deadline: 5, privacy: [pii]}
"""


def test_the_reuse_of_prefixes_can_be_switched_off(tmp_path):
    for text, wanted in (("", True), (", reuse_prefixes: true", True), (", reuse_prefixes: false", False)):
        config = parse_config(f"version: 1\nbackends: {{e: {{kind: onnx{text}}}}}\n", tmp_path / "hybrid.yaml")
        assert config.backends[0].reuse_prefixes is wanted


def test_the_configuration_on_the_page_for_apps_is_right_and_names_every_part(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "apps.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = parse_config(block, tmp_path / "hybrid.yaml")
    edge, cloud = config.backends
    assert (edge.name, cloud.name) == ("edge", "cloud")
    assert None not in (config.record, config.spend, config.metrics)
    assert config.detectors
    assert config.prediction.calibrate
    wanted = {field.name for spec in (edge, cloud) for field in fields(spec)} - {"name", "spin"} | {"price"}
    assert {name for name in wanted if f"{name}:" not in block} == set()


def test_a_whole_configuration_is_read(tmp_path):
    config = parse_config(GOOD, tmp_path / "hybrid.yaml")
    edge, cloud = config.backends
    assert edge == EdgeConfig(name="edge", model=embedded_model(), load="eager", threads=2, energy_per_1k_tokens_j=80.0)
    assert isinstance(cloud, GrpcSpec)
    assert (cloud.tls.ca, cloud.targets, cloud.resolve) == (tmp_path / "ca.pem", ("127.0.0.1:7443",), False)
    assert config.locations == {"edge": Location.EDGE, "cloud": Location.CLOUD}
    assert config.prices["cloud"] == Price(input_per_1k=0.5, output_per_1k=0.5)
    assert (config.defaults.max_tokens, config.defaults.deadline) == (64, 5.0)
    assert config.defaults.privacy == {"pii"}


PRICE = "{input_per_1k: 0.5, output_per_1k: 1.5, currency: USD}"


def test_a_price_for_prompt_and_answer_and_the_ledger_are_read(tmp_path):
    text = f"version: 1\nbackends: {{edge: {{kind: onnx, price: {PRICE}}}}}\nspend: {{file: spend.db}}\n"
    config = parse_config(text, tmp_path / "hybrid.yaml")
    assert config.prices == {"edge": Price(input_per_1k=0.5, output_per_1k=1.5, currency="USD")}
    assert config.spend == tmp_path / "spend.db"
    url = "postgresql://spend@db.example/spend"
    assert parse_config(text.replace("spend.db", f"'{url}'"), tmp_path / "hybrid.yaml").spend == url
    ledger = config.open_ledger()
    assert ledger.balance("").total == 0
    ledger.close()


DATABASES = {
    "quotas": "gateway: {rights: rights.yaml, quotas: @}",
    "spend": "spend: {file: @}",
    "audit": "audit: {file: @, key: audit.key}",
}


def database_of(key, where, folder):
    text = f"version: 1\nbackends: {{edge: {{kind: onnx}}}}\n{DATABASES[key].replace('@', where)}\n"
    config = parse_config(text, folder / "hybrid.yaml")
    return {"quotas": config.gateway.quotas, "spend": config.spend, "audit": config.audit and config.audit.file}[key]


@pytest.mark.parametrize("key", DATABASES)
def test_every_database_may_be_named_by_a_secret_and_no_error_has_its_password(tmp_path, key):
    assert database_of(key, "{env: DATABASE_URL}", tmp_path) == Secret(env="DATABASE_URL")
    assert database_of(key, "{file: secrets/url}", tmp_path) == Secret(file=tmp_path / "secrets/url")
    url = "postgres://u:hunter2@h/d"
    assert database_of(key, f'"{url}"', tmp_path) == url
    for wrong in ("mysql://u:hunter2@h/d", "postgresql:/u:hunter2@h/d", "env:URL", "file:url"):
        with pytest.raises(ConfigError) as caught:
            database_of(key, f'"{wrong}"', tmp_path)
        assert "hunter2" not in str(caught.value)
        assert ("{env: NAME}" in str(caught.value)) == wrong.startswith(("env:", "file:"))


def test_a_policy_in_another_currency_than_the_prices_is_rejected_at_the_start_and_nothing_stays_open(tmp_path):
    (tmp_path / "policy.yaml").write_text("version: 1\nname: p\nobjectives: {budget: 1 EUR/day}\n")
    config = tmp_path / "hybrid.yaml"
    config.write_text(f"version: 1\npolicy: policy.yaml\nbackends: {{edge: {{kind: onnx, price: {PRICE}}}}}\n")
    before = threading.active_count()
    with pytest.raises(ConfigError, match="prices are in USD, the policy counts in EUR"):
        HybridLLM.from_config(config)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("- a\n", "hybrid.yaml must be a mapping with the keys version, policy"),
        ("version: 2\nbackends: {edge: {kind: onnx}}\n", "version: 1"),
        ("version: 1\n", "`backends` is missing"),
        ("version: 1\nbackends: {edge: {kind: onxx}}\n", "did you mean `onnx`?"),
        ("version: 1\nbackends: {edge: {kind: onnx, modle: x}}\n", "did you mean `model`?"),
        ("version: 1\nbackends: {edge: {kind: onnx, reuse_prefixes: flase}}\n", "did you mean `false`?"),
        (
            "version: 1\nbackends: {edge: 7}\n",
            "a mapping with the key kind: onnx, encoder, litert, grpc, openai or anthropic",
        ),
        ("version: 1\nbackends: {edge: {kind: onnx, threads: -1}}\n", "`-1` is not a whole number from 0 to 1024"),
        ("version: 1\nbackends: {edge: {kind: onnx, load: now}}\n", "`now` is not `lazy` or `eager`"),
        ("version: 1\nbackends: {c: {kind: grpc, target: 'a:1'}}\n", "`tls` is missing"),
        ("version: 1\nbackends: {c: {kind: grpc, target: nowhere, tls: {ca: a, cert: b, key: c}}}\n", "HOST:PORT"),
        ("version: 1\nbackends: {c: {kind: grpc, target: 'a:1', tls: {ca: a, cert: b}}}\n", "`key` is missing"),
        ("version: 1\nbackends: {edge: {kind: onnx, price: 3}}\n", "`price` must be a mapping"),
        ("version: 1\nbackends: {edge: {kind: onnx, price: {input_per_1k: 1}}}\n", "`output_per_1k` is missing"),
        ("version: 1\nbackends: {edge: {kind: onnx, price: {input_per_k: 1}}}\n", "did you mean `input_per_1k`?"),
        (
            f"version: 1\nbackends: {{edge: {{kind: onnx, price: {PRICE.replace('1.5', '-1')}}}}}\n",
            "a number of at least 0",
        ),
        (f"version: 1\nbackends: {{edge: {{kind: onnx, price: {PRICE.replace('USD', 'usd')}}}}}\n", "three capital"),
        (f"version: 1\nbackends: {{edge: {{kind: onnx, price_per_1k_tokens: 1, price: {PRICE}}}}}\n", "not both"),
        (
            f"version: 1\nbackends: {{a: {{kind: onnx, price: {PRICE}}},\n"
            f"  b: {{kind: onnx, price: {PRICE.replace('USD', 'EUR')}}}}}\n",
            "prices are in USD and in EUR",
        ),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nspend: {path: x}\n", "spend has no key `path`"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nspend: {}\n", "`file` is missing"),
        ("version: 1\nbackends: {edge: {kind: onnx}, edge: {kind: onnx}}\n", "occurs twice"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\ndefaults: {privacy: pii}\n", "must be a list, each item a tag"),
        (
            "version: 1\nbackends: {edge: {kind: onnx}}\ndefaults: {deadline: soon}\n",
            "`soon` is not a number from",
        ),
        (
            "version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {n: 7}\n",
            "the key kind: ner, rampart or presidio",
        ),
        ("version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {n: {kind: nr, model: x}}\n", "did you mean `ner`?"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {n: {kind: ner}}\n", "`model` is missing"),
        (
            "version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {n: {kind: ner, modle: x}}\n",
            "did you mean `model`?",
        ),
        (
            "version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {n: {kind: ner, model: x, labels: 7}}\n",
            "`labels` must be a mapping",
        ),
        (
            "version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {n: {kind: ner, model: x, min_score: 2}}\n",
            "`2` is not a number from 0 to 1",
        ),
        (
            "version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {email: {kind: ner, model: x}}\n",
            "`email` is a built-in detector",
        ),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nmetrics: 9464\n", "`metrics` must be a mapping"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nmetrics: {listn: x}\n", "did you mean `listen`?"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nmetric: {}\n", "did you mean `metrics`?"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nmetrics: {listen: here}\n", "`here` is not HOST:PORT"),
        ("version: 1\nbackends: {edge: {kind: onnx}}\nmetrics: {listen: '9464'}\n", "`9464` is not HOST:PORT"),
        ("a: [1\n", "this is not YAML"),
    ],
)
def test_what_is_wrong_is_reported_with_its_position(text, expected):
    with pytest.raises(ConfigError, match=r"hybrid\.yaml:\d+:\d+") as caught:
        parse_config(text, Path("hybrid.yaml"))
    assert expected in str(caught.value)


def test_all_faults_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config("version: 3\nbackends: {edge: {kind: onnx, x: 1}}\nextra: 1\n", Path("hybrid.yaml"))
    assert "3 errors" in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "bytes.yaml")


@given(st.text(max_size=200) | st.lists(st.sampled_from(GOOD.splitlines()), max_size=8).map("\n".join))
def test_any_text_gives_a_configuration_or_the_one_error_for_it(text):
    try:
        parse_config(text, Path("hybrid.yaml"))
    except ConfigError as error:
        assert error.path == "hybrid.yaml"


def test_a_client_over_a_policy_that_is_wrong_opens_nothing(tmp_path):
    (tmp_path / "hybrid.yaml").write_text("version: 1\npolicy: policy.yaml\nbackends: {edge: {kind: onnx}}\n")
    (tmp_path / "policy.yaml").write_text("version: 1\nname: p\nrules: [{prefer: [egde]}]\n")
    with pytest.raises(PolicyError, match=r"policy\.yaml:3:\d+"):
        HybridLLM.from_config(tmp_path / "hybrid.yaml")


def test_a_policy_may_name_a_detector_of_the_app(tmp_path):
    class Detector:
        name = "project_name"

        def find(self, text: str):
            return iter(())

    (tmp_path / "hybrid.yaml").write_text("version: 1\npolicy: policy.yaml\nbackends: {edge: {kind: onnx}}\n")
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nname: p\ntags: {own: {allow: [edge], detect: [project_name]}}\nrules: []\n"
    )
    with HybridLLM.from_config(tmp_path / "hybrid.yaml", detectors=[Detector()]) as llm:
        assert llm.decide("hello").order == ("edge",)
    with pytest.raises(PolicyError, match="project_name"):
        HybridLLM.from_config(tmp_path / "hybrid.yaml")


@pytest.mark.parametrize(
    ("defaults", "wrong"),
    [
        ("max_tokens: 0", "`0` is not a whole number from 1 to 1000000"),
        ("max_tokens: 1000001", "`1000001` is not a whole number"),
        ("deadline: 0", "`0` is not a number from 0.001 to 86400"),
        ("deadline: 86401", "`86401` is not a number"),
        ('privacy: [""]', "the text is empty; expected a tag"),
        ('privacy: ["a\\0"]', "a NUL, or half a surrogate pair, is no text; expected a tag"),
        ("privacy: [pii, pii]", "`pii` is in the list twice"),
    ],
)
def test_defaults_that_every_request_would_be_rejected_for_are_rejected_at_load(defaults, wrong):
    text = f"version: 1\nbackends: {{edge: {{kind: onnx}}}}\ndefaults: {{{defaults}}}\n"
    with pytest.raises(ConfigError, match=r"hybrid\.yaml:3:\d+") as caught:
        parse_config(text, Path("hybrid.yaml"))
    assert wrong in str(caught.value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(-1, 1_000_002) | st.sampled_from([1, 1_000_000]),
            "deadline": st.sampled_from([0.001, 0.0005, 86_400, 86_400.5]) | st.integers(0, 90_000),
            "privacy": st.lists(st.sampled_from(["pii", "phi"]), unique=True),
        },
    )
)
def test_defaults_that_load_make_a_valid_request(defaults):
    text = json.dumps({"version": 1, "backends": {"edge": {"kind": "onnx"}}, "defaults": defaults})
    try:
        config = parse_config(text, Path("hybrid.yaml"))
    except ConfigError:
        with pytest.raises(InvalidRequest):
            make_request("hello", GenerateOptions(**defaults), Defaults())
    else:
        request = make_request("hello", {}, config.defaults)
        assert request.max_tokens == defaults.get("max_tokens", 256)


def test_a_default_tag_that_the_policy_does_not_declare_is_rejected_at_load(tmp_path):
    (tmp_path / "hybrid.yaml").write_text(
        "version: 1\npolicy: policy.yaml\nbackends: {edge: {kind: onnx}}\ndefaults: {privacy: [pii]}\n"
    )
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nname: p\ntags: {phi: {allow: [edge]}}\n")
    config = load_config(tmp_path / "hybrid.yaml")
    with pytest.raises(PolicyError, match="has the tag `pii`, which the policy `p` does not declare"):
        config.open_policy()
    policy.write_text("version: 1\nname: p\ntags: {pii: {allow: [edge]}}\n")
    source = config.open_policy()
    policy.write_text("version: 1\nname: q\ntags: {phi: {allow: [edge]}}\n")
    source.reload()
    assert source.current.name == "p"
    assert "pii" in str(source.error)
    source.close()


def test_messages_name_the_file_and_never_call_it_a_policy():
    for text in ("", "a: &x 1\n", "x" * 300_000, "version: 1\nbackends: 7\nrule: 1\n", "a: [1\n"):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, Path("hybrid.yaml"))
        assert re.search(r"\b(a|the) policy\b", str(caught.value)) is None


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "version": st.sampled_from([1, 1, 1, 2]),
        "backends": st.dictionaries(
            st.sampled_from(["edge", "cloud"]),
            st.sampled_from(
                [
                    {"kind": "onnx"},
                    {"kind": "onnx", "threads": 2, "load": "eager", "price_per_1k_tokens": 0.5},
                    {"kind": "onnx", "threads": -1},
                    {"kind": "onnx", "load": "now"},
                    {"kind": "onnx", "target": "a:1"},
                    {"kind": "onnx", "price": {"input_per_1k": 1, "output_per_1k": 2, "currency": "USD"}},
                    {"kind": "onnx", "price": {"input_per_1k": 1}, "price_per_1k_tokens": 1},
                    {"kind": "grpc", "target": "a:1", "tls": {"ca": "a", "cert": "b", "key": "c"}},
                    {"kind": "grpc", "targets": ["a:1", "b:2"], "tls": {"ca": "a", "cert": "b", "key": "c"}},
                    {"kind": "grpc", "target": "a:1", "targets": ["a:1"], "tls": {"ca": "a", "cert": "b", "key": "c"}},
                    {"kind": "grpc", "target": "a", "tls": {"ca": "a", "cert": "b", "key": "c"}},
                    {"kind": "grpc", "tls": {"ca": "a"}},
                    {"kind": "fax"},
                    {},
                    7,
                ]
            ),
            max_size=2,
        ),
    },
    optional={
        "defaults": st.sampled_from([{}, {"max_tokens": 5}, {"max_tokens": 0}, {"deadline": "2s"}, {"privacy": "a"}]),
        "record": st.sampled_from([{"path": "d.jsonl"}, {"path": "d", "max_mb": 0}, {}, 1]),
        "spend": st.sampled_from([{"file": "s.db"}, {"path": "s.db"}]),
        "prediction": st.sampled_from([{"calibrate": "auto"}, {"calibrate": "always"}]),
        "metrics": st.sampled_from([{}, {"listen": "127.0.0.1:9464"}, {"listen": "9464"}]),
        "detectors": st.sampled_from(
            [
                {},
                {"names": {"kind": "ner", "model": "ner/", "labels": {"PER": "person_name"}}},
                {"names": {"kind": "ner", "model": "ner/", "language": "en"}},
                {"names": {"kind": "presidio", "model": "x", "language": "en", "min_score": 1.5}},
            ]
        ),
        "other": st.just(1),
    },
)


@given(CONFIGURATIONS)
def test_schema_and_reader_agree_on_every_generated_configuration(document):
    try:
        parse_config(json.dumps(document), Path("hybrid.yaml"))
        problem = None
    except ConfigError as error:
        problem = error
    assert SCHEMA.is_valid(document) is (problem is None), problem or list(SCHEMA.iter_errors(document))


def test_it_is_a_schema_of_the_draft_that_it_names():
    Draft202012Validator.check_schema(SCHEMA.schema)


TLS = "tls: {ca: ca.pem, cert: app.pem, key: app.key}"


def test_a_backend_is_sealed_to_the_keys_of_a_file_beside_the_configuration(tmp_path):
    text = (
        f"version: 1\nbackends:\n  c: {{kind: grpc, target: 'a:1', {TLS}, sealed: {{keys: sealing.pub}}}}\n"
        "  o: {kind: openai, base_url: 'https://a.example/v1', model: m, sealed: {keys: other.pub}}\n"
    )
    cloud, other = parse_config(text, tmp_path / "hybrid.yaml").backends
    assert cloud.sealed.keys == tmp_path / "sealing.pub"
    assert other.sealing_keys == tmp_path / "other.pub"


@pytest.mark.parametrize(
    ("sealed", "message"),
    [
        ("{}", "nothing says which are accepted"),
        ("true", "must be a mapping"),
        ("{key: a}", "did you mean `keys`"),
        ("{keys: [a]}", "expected a path"),
    ],
)
def test_a_backend_that_is_sealed_to_any_key_is_refused(tmp_path, sealed, message):
    text = f"version: 1\nbackends: {{c: {{kind: grpc, target: 'a:1', {TLS}, sealed: {sealed}}}}}\n"
    with pytest.raises(ConfigError) as refused:
        parse_config(text, tmp_path / "hybrid.yaml")
    assert message in str(refused.value)


def test_a_cloud_backend_may_have_several_nodes(tmp_path):
    text = f'version: 1\nbackends: {{c: {{kind: grpc, targets: ["a:1", "b:2"], resolve: all, {TLS}}}}}\n'
    (cloud,) = parse_config(text, tmp_path / "hybrid.yaml").backends
    assert (cloud.targets, cloud.resolve) == (("a:1", "b:2"), True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("targets: []", "at least 1 item"),
        ('targets: ["a:1", "a:1"]', "in the list twice"),
        ('targets: ["a:1"], target: "b:1"', "exactly one of target and targets"),
        ('targets: ["a"]', "is not HOST:PORT"),
        ('target: "a:1", resolve: some', "is not `first` or `all`"),
    ],
)
def test_what_is_wrong_with_nodes_is_reported(tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(f"version: 1\nbackends: {{c: {{kind: grpc, {keys}, {TLS}}}}}\n", tmp_path / "hybrid.yaml")


def test_detectors_with_a_model_are_read_and_may_be_named_by_the_policy(tmp_path):
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nname: p\nrules: []\ntags: {people: {allow: [edge], detect: [names, more]}, pii: {allow: [edge]}}\n"
    )
    text = GOOD + (
        "detectors:\n"
        "  names: {kind: ner, model: ner/, labels: {PER: person_name}, min_score: 0.7}\n"
        "  more: {kind: presidio, model: en_core_web_sm, language: de}\n"
    )
    config = parse_config(text, tmp_path / "hybrid.yaml")
    assert config.detectors == (
        NerSpec(name="names", model=tmp_path / "ner", labels={"PER": "person_name"}, min_score=0.7),
        PresidioSpec(name="more", model="en_core_web_sm", language="de"),
    )
    source = config.open_policy()
    assert source.current.tags["people"].detect == ("names", "more")
    source.close()
    with pytest.raises(ConfigError, match=r"it lacks .*model\.onnx"):
        config.open_detectors()


@pytest.mark.parametrize("text", ["answers\0.db", "answers\ud800.db"])
def test_a_mapping_with_a_path_that_is_no_text_is_a_typed_error(text):
    backends = {"edge": {"kind": "onnx", "model": "embedded"}}
    with pytest.raises(ConfigError, match=r"cache\.path: a NUL, or half a surrogate pair, is no text"):
        HybridLLM.from_config({"version": 1, "backends": backends, "cache": {"kind": "disk", "path": text}})


def test_a_mapping_is_read_as_the_same_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backends = {
        "edge": {"kind": "onnx", "model": "embedded", "load": "eager", "threads": 2, "energy_per_1k_tokens_j": 80},
        "cloud": {
            "kind": "grpc",
            "target": "127.0.0.1:7443",
            "tls": {"ca": Path("ca.pem"), "cert": "app.pem", "key": "app.key"},
            "price_per_1k_tokens": 0.5,
        },
    }
    defaults = {"max_tokens": 64, "deadline": 5.0, "privacy": {"pii"}}
    given = {"version": 1, "policy": "policy.yaml", "backends": backends, "defaults": defaults}
    of_file = parse_config(GOOD, tmp_path / "hybrid.yaml")
    assert replace(read_config(config_source(given)), name=of_file.name) == of_file


def test_a_mapping_is_read_as_it_was_when_it_was_given():
    given = {"version": 1, "backends": {"edge": {"kind": "onnx", "threads": 3}}}
    source = config_source(given)
    given["backends"]["edge"]["threads"] = "many"
    assert read_config(source).backends[0].threads == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "the configuration: `version` is missing"),
        ({"version": 1, "backends": {"edge": {"kind": "onnx", "threads": -1}}}, "backends.edge.threads: `-1` is not"),
        (
            {"version": 1, "backends": {"cloud": {"kind": "grpc", "modle": 1}}},
            "cloud.modle: a backend of kind",
        ),
        ({"version": 1, "backends": {"e": {"kind": "onnx"}}, "defaults": {"privacy": ["a", 3]}}, "privacy[1]: `3` is"),
        ({"version": 1, "backends": {"e": {"kind": "onnx", "model": object()}}}, "e.model: a value of the type object"),
        ({"version": 1, "backends": {"e": {"kind": "onnx", 7: 1}}}, "backends.e: a key must be a text, not int"),
        ({"version": 1, "backends": {"e": {"kind": "onnx"}}, "sessions": {"idle": 60}}, "sessions.idle: `60` is not a"),
        ({"version": 1, "backends": {"e": {"kind": "onnx", "threads": True}}}, "backends.e.threads: `true` is not"),
        ({"version": 1, "backends": {"e": {"kind": "onnx", "threads": None}}}, "backends.e.threads: `` is not"),
    ],
)
def test_what_is_wrong_in_a_mapping_is_reported_by_its_keys(given, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        HybridLLM.from_config(given)


def test_a_mapping_that_contains_itself_is_refused():
    given = {"version": 1}
    given["backends"] = given
    with pytest.raises(ConfigError, match="nested too deeply"):
        HybridLLM.from_config(given)


def test_a_mapping_whose_parts_contain_each_other_many_times_is_refused_at_once():
    shared = {"version": 10**5000}
    for _ in range(40):
        shared = {"a": shared, "b": shared}
    with pytest.raises(ConfigError, match="more values than are read"):
        HybridLLM.from_config({"version": 1, "backends": shared})
    with pytest.raises(ConfigError, match="threads: `1000"):
        HybridLLM.from_config({"version": 1, "backends": {"e": {"kind": "onnx", "threads": 10**5000}}})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(values=st.dictionaries(st.sampled_from(["version", "backends", "policy", "defaults", "x"]), PLAIN))
def test_whatever_a_mapping_holds_is_a_configuration_or_one_error(values):
    with suppress(ConfigError):
        read_config(config_source(values))
