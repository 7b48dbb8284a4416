"""Each parser of what comes from outside raises its own errors, and nothing else, whatever it is given."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given

from tests.fuzz.effort import examples
from tests.fuzz.mutations import mutated
from tests.fuzz.parsers import parsers

NAMES = (
    "rights file", "keys of tokens", "sealing key file", "public sealing key file", "measurements",
    "EHBP key configuration", "EHBP frames", "EHBP header", "certificate", "private key",
    "revocation list", "signer's key", "audit entry", "audit head", "audit key", "audit record",
    "error of a node", "sealing key of a node", "traceparent",
)  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    logging.disable(logging.ERROR)
    yield {parser.name: parser for parser in parsers(tmp_path_factory.mktemp("parsers"))}
    logging.disable(logging.NOTSET)


def test_all_parsers_are_here(known):
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_valid_is_taken(known, name):
    parser = known[name]
    for seed in parser.seeds if name not in ("audit record", "measurements") else ():
        parser.take(seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_refuses_what_is_not_valid_with_its_own_error(known, name):
    parser = known[name]

    @examples(60)
    @given(mutated(parser.seeds))
    def check(data):
        parser.check(data)

    check()
