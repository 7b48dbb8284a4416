"""A hint is one short command, which works whatever hybrid-llm was installed from."""

import pytest

from hybrid_llm.core.extras import install_hint, listed


@pytest.mark.parametrize("extra", ["node", "prepare", "report", "metrics", "cli", "dbus", "gpu", "presidio"])
def test_a_hint_names_the_extra(extra):
    assert install_hint(extra) == f'pip install "hybrid-llm[{extra}]"'


def test_an_extra_that_the_installation_does_not_know_is_named():
    assert install_hint("none-such") == "install hybrid-llm with the extra `none-such`"


def test_a_long_list_of_packages_is_cut():
    assert [listed(list("abcdef"[:count])) for count in (1, 3, 4, 6)] == [
        "a",
        "a, b, c",
        "a, b, c, d",
        "a, b, c and 3 more",
    ]
