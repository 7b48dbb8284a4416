"""The rules of gitleaks are the project's own, all run in RE2, and find and ignore what gitleaks does."""

from __future__ import annotations

import random
import string
import tomllib
from importlib.resources import files

import pytest

from hybrid_llm.router.privacy.detectors import DETECTORS
from hybrid_llm.router.privacy.detectors.credentials.gitleaks import load_rules
from hybrid_llm.router.privacy.detectors.text import decoded

RULES = files("hybrid_llm.router.privacy.detectors").joinpath("rules", "gitleaks.toml")
RNG = random.Random(11)


def chars(alphabet: str, count: int) -> str:
    return "".join(RNG.choices(alphabet, k=count))


ALNUM, HEX = string.ascii_letters + string.digits, "0123456789abcdef"
LOWER = string.ascii_lowercase + string.digits


def spans(text: str) -> list[str]:
    return [text[start:end] for start, end in load_rules().spans(decoded(text).data)]


def test_every_rule_with_an_expression_is_loaded_and_compiles():
    rules = tomllib.loads(RULES.read_text("utf-8"))["rules"]
    with_expression = [rule["id"] for rule in rules if "regex" in rule]
    assert [rule.id for rule in load_rules().rules] == with_expression
    assert len(with_expression) == 221
    for rule in load_rules().rules:
        assert list(rule.spans(b"")) == []
        for allowlist in rule.allowlists:
            assert allowlist.allows({"secret": b"", "match": b"", "line": b""}) in {True, False}


MADE = {
    "github": "ghp_" + chars(ALNUM, 36),
    "gitlab": "glpat-" + chars(ALNUM, 20),
    "aws": "AKIA" + chars("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
    "npm": "npm_" + chars(LOWER, 36),
    "slack": "xoxb-" + chars(string.digits, 12) + "-" + chars(string.digits, 12) + "-" + chars(ALNUM, 24),
    "sendgrid": "SG." + chars(LOWER, 66),
    "stripe": "sk_live_" + chars(LOWER, 24),
    "digitalocean": "dop_v1_" + chars(HEX, 64),
    "google": "AIza" + chars(ALNUM, 35),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + chars(ALNUM, 60),
    "doppler": "dp.pt." + chars(LOWER, 43),
    "databricks": "dapi" + chars(HEX, 32),
}


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_token_of_a_known_maker_is_found_and_nothing_around_it(name):
    token = MADE[name]
    assert token in spans(f"here: '{token}' and more")
    assert token in [f"here: '{token}' x"[f.start : f.end] for f in DETECTORS["credential"].find(f"here: '{token}' x")]


def test_a_word_in_front_makes_a_random_text_a_secret():
    secret = chars(LOWER, 32)
    assert spans(f'my_api_key = "{secret}"') == [secret]
    assert spans(f'my_colour = "{secret}"') == []


def test_what_has_little_entropy_is_no_secret():
    assert spans('api_key = "aaaaaaaaaaaaaaaaaaaaaaaaaaaa"') == []


def test_what_is_on_an_allowlist_is_no_secret():
    secret = chars(LOWER, 30)
    assert spans(f'api_key = "{secret}"') == [secret]
    assert spans(f'api_key = "{secret[:12]}abstract{secret[12:]}"') == []
    assert spans("AKIA" + chars("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 9) + "EXAMPLE") == []


def test_the_licence_of_the_rules_is_beside_them():
    assert "Zachary Rice" in RULES.parent.joinpath("LICENSE.gitleaks").read_text("utf-8")


def test_a_private_key_is_found_whole():
    body = "\n".join(chars(ALNUM + "+/", 64) for _ in range(5))
    block = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    assert [f"see {block} ok"[f.start : f.end] for f in DETECTORS["credential"].find(f"see {block} ok")] == [block]
