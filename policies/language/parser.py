"""Parses one expression into nodes, by precedence. Names and types are checked later.

The parts of CEL that the language leaves out are rejected by name. Source: CEL's language definition
(github.com/google/cel-spec, doc/langdef.md) and its extension libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from hybrid_llm.policies.language import types
from hybrid_llm.policies.language.lexer import Token, tokenize
from hybrid_llm.policies.language.types import Node
from hybrid_llm.policies.reader.source import Fault, did_you_mean

FUNCTIONS = {"has": 1, "size": 1, "double": 1, "matches": 2}
"""Name -> number of arguments."""
METHODS = {"startsWith": 1, "endsWith": 1, "contains": 1, "matches": 1, "size": 0}
"""Name -> number of arguments after the receiver."""

_MAX_DEPTH = 36
_MAX_OPERATORS = 100
_MAX_TOKENS = 1000
_LITERALS = {
    kind.kind: kind for kind in (types.INT, types.DOUBLE, types.STRING, types.DURATION, types.PERCENT, types.MONEY)
}
_LEVELS = (("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))
WORDS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!", "is": "=="}
"""Words that people write for operators."""
_UNSUPPORTED = {
    what: frozenset(words.split())
    for what, words in {
        "reserved": """as break const continue else for function if import let loop package namespace return var void
            while null""",
        "macro": """all exists exists_one existsOne map filter transformList transformMap transformMapEntry sortBy
            optMap optFlatMap""",
        "function": """bool bytes duration dyn int string timestamp type uint getDate getDayOfMonth getDayOfWeek
            getDayOfYear getFullYear getHours getMilliseconds getMinutes getMonth getSeconds""",
        "extension": """charAt indexOf lastIndexOf lowerAscii upperAscii replace split join substring trim reverse quote
            format slice flatten sort distinct range first last lists greatest least ceil floor round trunc abs sign
            sqrt isNaN isInf isFinite bitAnd bitOr bitXor bitNot bitShiftLeft bitShiftRight encode decode bind block
            index iterVar accuVar getExt hasExt of none ofNonZeroValue value hasValue orValue or unwrap unwrapOpt
            contains_ci ip isIP cidr isCIDR family isUnspecified isLoopback isGlobalUnicast isLinkLocalMulticast
            isLinkLocalUnicast isCanonical containsIP containsCIDR masked prefixLength extract extractAll find
            findAll""",
        "namespace": "math strings lists sets base64 optional cel proto regex net ip",
        "type": """bool bytes double int uint string list map type null_type duration timestamp google dyn
            optional_type""",
    }.items()
}
"""Names of CEL and its extension libraries that have no meaning here."""
_HINTS = {
    "duration": "write the duration itself: 400ms",
    "timestamp": "a policy cannot read the time",
    "int": "int and double compare without a conversion",
    "null": "test with has() whether a signal is present",
}


def unsupported_name(name: str) -> tuple[str, str] | None:
    """Message and hint for a name that has a meaning in CEL and none here; None for other names."""
    if name in _UNSUPPORTED["type"]:
        return f"`{name}` names a type of CEL; types are not values of this language", "every name has one type"
    if name in _UNSUPPORTED["namespace"]:
        return f"the extension library `{name}` of CEL is not supported", "see docs/policies.md"
    return None


def _unsupported_call(
    name: str, namespace: str, offset: int, known: Collection[str], others: Collection[str], form: str
) -> Fault:
    """The error for a call of *name*: *known* can be called in this form, *others* only as *form*."""
    if name in others:
        return Fault(f"{name} is not called like this", offset, f"write {form}")
    if namespace in _UNSUPPORTED["namespace"]:
        return Fault(f"the extension function {namespace}.{name}() of CEL is not supported", offset)
    if name in _UNSUPPORTED["macro"]:
        return Fault(f"the macro {name}() of CEL is not supported", offset, "there are no loops; use `in`")
    if name in _UNSUPPORTED["function"]:
        return Fault(f"{name}() of CEL is not supported", offset, _HINTS.get(name))
    if name in _UNSUPPORTED["extension"]:
        return Fault(f"the extension function {name}() of CEL is not supported", offset)
    return Fault(f"there is no function {name}()", offset, did_you_mean(name, {*known, *others}))


def parse(text: str) -> Node:
    """Parse *text*.

    Raises:
        Fault: the text is not one expression of the language; the offset is that of the first token that does not fit.
    """
    tokens = tokenize(text)
    if len(tokens) > _MAX_TOKENS:
        raise Fault("this expression is too long", 0, "split it into several rules")
    return _Parser(tokens).whole()


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._operators = 0

    def whole(self) -> Node:
        if self._token.kind == "end":
            raise Fault("the expression is empty", 0, "leave `when` out for a rule that always matches")
        node = self._expression()
        if self._token.kind != "end":
            raise self._unexpected("an operator or the end of the expression")
        return node

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _at(self, *texts: str) -> bool:
        return self._token.text in texts and self._token.kind in {"op", "name"}

    def _advance(self) -> Token:
        token = self._token
        self._next += 1
        return token

    def _expect(self, text: str, purpose: str) -> Token:
        if not self._at(text):
            raise self._unexpected(f"`{text}` {purpose}")
        return self._advance()

    def _unexpected(self, wanted: str) -> Fault:
        token = self._token
        if token.kind == "end":
            return Fault(f"the expression ends where {wanted} is expected", token.start)
        hint = f"write `{WORDS[token.text]}`" if token.text in WORDS else None
        return Fault(f"`{token.text}` is where {wanted} is expected", token.start, hint)

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Fault(f"nested deeper than {_MAX_DEPTH} levels", self._token.start, "split it into several rules")
        node = self._either()
        if self._at("?"):
            self._advance()
            then = self._either()
            self._expect(":", "between the two values of `?`")
            last = self._expression()
            node = types.Conditional(start=node.start, end=last.end, condition=node, then=then, otherwise=last)
        self._depth -= 1
        return node

    def _either(self) -> Node:
        return self._logic("||", lambda: self._logic("&&", lambda: self._binary(0)))

    def _logic(self, op: str, operand: Callable[[], Node]) -> Node:
        items = [operand()]
        while self._at(op):
            self._advance()
            items.append(operand())
        if len(items) == 1:
            return items[0]
        return types.Logic(start=items[0].start, end=items[-1].end, op=op, items=tuple(items))

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._at(*_LEVELS[level]):
            self._operators += 1
            if self._operators > _MAX_OPERATORS:
                raise Fault(f"more than {_MAX_OPERATORS} operators", self._token.start, "split it into several rules")
            operator = self._advance()
            right, op, at = self._binary(level + 1), operator.text, operator.start
            left = types.Binary(start=left.start, end=right.end, op=op, left=left, right=right, at=at)
        return left

    def _unary(self) -> Node:
        if not self._at("!", "-"):
            return self._postfix(self._primary())
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Fault(f"nested deeper than {_MAX_DEPTH} levels", self._token.start)
        operator = self._advance()
        item = self._negative(operator) if operator.text == "-" else None
        if item is None:
            inner = self._unary()
            item = types.Unary(start=operator.start, end=inner.end, op=operator.text, item=inner)
        self._depth -= 1
        return item

    def _negative(self, operator: Token) -> Node | None:
        """The minus before a number belongs to it, as in CEL: otherwise the smallest int could not be written."""
        if self._token.kind not in {"int", "double"}:
            return None
        token = self._advance()
        assert isinstance(token.value, int | float)
        return types.Literal(start=operator.start, end=token.end, value=-token.value, type=_LITERALS[token.kind])

    def _primary(self) -> Node:
        token = self._token
        if token.kind in _LITERALS:
            return self._literal()
        if token.kind == "name":
            return self._name()
        if self._at("("):
            self._advance()
            inner = self._expression()
            self._expect(")", "to close the parenthesis")
            return inner
        if self._at("["):
            opening = self._advance()
            items = self._items("]", "to close the list")
            return types.ListOf(start=opening.start, end=self._tokens[self._next - 1].end, items=items)
        if self._at("."):
            message = "names with a leading dot of CEL are not supported"
            raise Fault(message, token.start, "write the name without it")
        raise self._unexpected("a value")

    def _literal(self) -> Node:
        token = self._advance()
        if token.kind == "int" and token.value == 2**63:
            raise Fault("this number does not fit an int of 64 bits", token.start)
        kind = types.Type("money", token.text[-3:]) if token.kind == "money" else _LITERALS[token.kind]
        return types.Literal(start=token.start, end=token.end, value=token.value, type=kind)

    def _items(self, closing: str, purpose: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._at(closing):
            if items:
                self._expect(",", "between two values")
            if self._at("?"):
                raise Fault("optional values of CEL (`?`) are not supported", self._token.start)
            if items and closing == "]" and self._at(closing):  # CEL lets a list end in a comma
                break
            items.append(self._expression())
        self._expect(closing, purpose)
        return tuple(items)

    def _name(self) -> Node:
        token = self._advance()
        if token.text in {"true", "false"}:
            return types.Literal(start=token.start, end=token.end, value=token.text == "true", type=types.BOOL)
        if token.text in WORDS or token.text in _UNSUPPORTED["reserved"]:
            hint = f"write `{WORDS[token.text]}`" if token.text in WORDS else "it is a reserved word of CEL"
            raise Fault(f"`{token.text}` is not supported", token.start, _HINTS.get(token.text, hint))
        if self._at("("):
            return self._call(token)
        return types.Field(start=token.start, end=token.end, path=(token.text,))

    def _postfix(self, node: Node) -> Node:
        while self._at(".", "["):
            if self._at("["):
                raise Fault("indexing is not supported", self._token.start, "test membership with `in`")
            self._advance()
            node = self._member(node)
        return node

    def _member(self, node: Node) -> Node:
        if self._token.kind != "name":
            raise self._unexpected("a name")
        token = self._advance()
        if self._at("("):
            return self._call(token, node)
        if not isinstance(node, types.Field):
            raise Fault(f"a value has no field `{token.text}`", token.start)
        return replace(node, path=(*node.path, token.text), end=token.end)

    def _call(self, token: Token, receiver: Node | None = None) -> Node:
        name, dot = token.text, "" if receiver is None else "."
        known, others = (FUNCTIONS, METHODS) if receiver is None else (METHODS, FUNCTIONS)
        if name not in known:
            namespace = receiver.name if isinstance(receiver, types.Field) else ""
            form = f"text.{name}(...)" if receiver is None else f"{name}(...)"
            raise _unsupported_call(name, namespace, token.start, known, others, form)
        self._advance()
        args = self._items(")", "to close the call")
        if len(args) != known[name]:
            raise Fault(f"{dot}{name}() takes {_arguments(known[name])}, not {len(args)}", token.start)
        end = self._tokens[self._next - 1].end
        if receiver is not None:
            return types.Call(start=receiver.start, end=end, function=name, args=(receiver, *args))
        if name != "has":
            return types.Call(start=token.start, end=end, function=name, args=args)
        if not isinstance(args[0], types.Field) or len(args[0].path) < 2:
            raise Fault("has() takes the name of a field", args[0].start, "for example has(device.battery)")
        return types.Has(start=token.start, end=end, field=args[0])


def _arguments(count: int) -> str:
    return ("no argument", "one argument", "two arguments")[count]
