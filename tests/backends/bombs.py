"""Schemas that are small and cost much, or look so."""

from __future__ import annotations

from hypothesis import strategies as st

PATTERNS = ["(a|b)*a(a|b){30}", "^.*a.{500}$", "(a{99}){99}", "[", "(?=a)", "\\p{L}{1,999}"]
LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer", "array", "object"]),
        "multipleOf": st.sampled_from([7, 97, 101, 9973, 0.0001, 99991]),
        "pattern": st.sampled_from(PATTERNS),
        "minLength": st.sampled_from([0, 10**4, 10**6, 10**9]),
        "maxLength": st.sampled_from([10**5, 10**9]),
        "minItems": st.sampled_from([3, 10**4, 10**6]),
        "maximum": st.sampled_from([10, 123456.7891234, 2**53 - 1]),
        "format": st.sampled_from(["date", "uri", "email", "uuid"]),
        "enum": st.lists(st.integers(0, 9) | st.text(max_size=4), min_size=1, max_size=300, unique_by=repr),
    },
)


def grow(inner):
    many, named = st.lists(inner, min_size=1, max_size=8), st.dictionaries(st.text("ab", max_size=2), inner, max_size=4)
    return st.one_of(
        st.builds(lambda one, each: {**one, "items": each}, inner, inner),
        st.builds(lambda each, word: {word: each}, many, st.sampled_from(["allOf", "anyOf", "prefixItems"])),
        st.builds(lambda each: {"type": "object", "properties": each, "required": list(each)}, named),
        st.builds(lambda one: {"$defs": {"d": one}, "type": "array", "items": {"$ref": "#/$defs/d"}}, inner),
        st.builds(lambda one: {"anyOf": [one, {"type": "array", "items": {"$ref": "#"}}]}, inner),
    )


BOMBS = st.recursive(LEAVES, grow, max_leaves=12)
