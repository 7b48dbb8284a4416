"""`hybrid-llm policy schema`: what an editor needs, for the backends and detectors that there are."""

import json
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_it_prints_the_schemas_that_are_checked_in(cli):
    assert cli("policy", "schema").out == (DOCS / "policy.schema.json").read_text("utf-8")
    assert cli("config", "schema").out == (DOCS / "hybrid.schema.json").read_text("utf-8")
    assert cli("policy", "schema", "--cases", "--json").out == (DOCS / "policy.cases.schema.json").read_text("utf-8")


def test_it_knows_the_given_backends_and_detectors(cli, configure):
    policy = "version: 1\nname: fleet\ntags: {t: {allow: [edge], detect: [names]}}\nrules: [{prefer: [eu]}]\n"
    document = yaml.safe_load(policy)
    schema = json.loads(cli("policy", "schema", "--backend", "eu=cloud", "--detector", "names").out)
    assert Draft202012Validator(schema).is_valid(document)
    other = json.loads(cli("policy", "schema", "--config", configure(1), "--detector", "names").out)
    assert not Draft202012Validator(other).is_valid(document)
    assert not Draft202012Validator(json.loads(cli("policy", "schema").out)).is_valid(document)
