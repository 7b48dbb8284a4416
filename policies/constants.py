"""Finds the parts of a condition that read nothing, their values, and those that always fail; it reads no signal."""

from __future__ import annotations

from hybrid_llm.policies.check import Report
from hybrid_llm.policies.compile import compile_expression
from hybrid_llm.policies.nodes import BOOL, Binary, Literal, Node, children, fields_of
from hybrid_llm.policies.schema import Schema
from hybrid_llm.router.signals import Signals
from hybrid_llm.router.types import Request

__all__ = ["check_constants", "constant_value", "is_constant"]


def is_constant(node: Node, schema: Schema) -> bool:
    """Does *node* read nothing but objectives, which the policy itself sets?"""
    return all(schema.fields(field.path[0])[field.path[1]].root == "objectives" for field in fields_of(node))


def constant_value(node: Node, schema: Schema) -> object:
    """The value of a node that is constant.

    Raises:
        ArithmeticError: it overflows, or divides by zero.
    """
    if isinstance(node, Literal):
        return node.value
    return compile_expression(node, schema)(Request(messages=()), Signals())


def check_constants(node: Node, schema: Schema, report: Report) -> None:
    """Report what fails whatever the signals are: an overflow among constants, a division by a constant zero.

    CEL finds these when it runs; here a policy that holds one is refused.
    """
    if is_constant(node, schema) and node.type != BOOL:
        try:
            constant_value(node, schema)
        except ArithmeticError as error:
            report(f"this always fails: {error}", node.start, None)
        return
    for child in children(node):
        check_constants(child, schema, report)
    if isinstance(node, Binary) and node.op in "/%" and node.type.kind == "int" and _is_zero(node.right, schema):
        report("division by zero", node.right.start, None)


def _is_zero(node: Node, schema: Schema) -> bool:
    try:
        return is_constant(node, schema) and constant_value(node, schema) == 0
    except ArithmeticError:
        return False
