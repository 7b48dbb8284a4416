"""A hint names packages that an index has, whatever hybrid-llm was installed from."""

import pytest

from hybrid_llm.core.extras import install_hint, requirements


@pytest.mark.parametrize("extra", ["node", "prepare", "report", "metrics", "cli", "dbus", "gpu", "presidio"])
def test_a_hint_names_the_packages_of_the_extra_and_not_ours(extra):
    hint = install_hint(extra)
    assert hint.startswith("pip install '")
    assert "hybrid-llm" not in hint
    assert all(f"'{each}'" in hint for each in requirements(extra))


def test_an_extra_without_packages_is_named():
    assert install_hint("none-such") == "install hybrid-llm with the extra `none-such`"
