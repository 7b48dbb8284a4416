"""Sums, differences and products; from two digits on, the answer first works it out from the ones upwards."""

from __future__ import annotations

from random import Random

from examples.models.recipe.tasks.base import Example

ASK = (
    "What is {x}?",
    "What is {x}?",
    "What is {x}?",
    "Calculate {x}.",
    "Compute {x}.",
    "{x} = ?",
    "{x}",
    "How much is {x}?",
    "Please calculate {x}.",
    "Work out {x}.",
    "What's {x}?",
    "Can you tell me what {x} is?",
)
TABLE_KEY = "table"
NAMED = {"+": ("add {a} and {b}.", "what is {a} plus {b}?"), "-": ("subtract {b} from {a}.", "what is {a} minus {b}?")}
NAMED["*"] = ("multiply {a} by {b}.", "what is {a} times {b}?")


def _digits(number: int) -> list[int]:
    """The digits from the ones upwards."""
    return [int(digit) for digit in reversed(str(number))]


def addition_steps(a: int, b: int) -> str:
    """Column by column with the carry: 37 and 48 give '7+8=15, 3+4+1=8'."""
    steps, carry = [], 0
    left, right = _digits(a), _digits(b)
    for place in range(max(len(left), len(right))):
        terms = [column[place] for column in (left, right) if place < len(column)] + ([1] if carry else [])
        total = sum(terms)
        steps.append("+".join(map(str, terms)) + f"={total}")
        carry = total // 10
    return ", ".join(steps)


def subtraction_steps(a: int, b: int) -> str:
    """Column by column with the borrowed ten: 52 and 38 give '12-8=4, 5-1-3=1'; *a* is not below *b*."""
    steps, borrowed = [], False
    right = _digits(b)
    for place, digit in enumerate(_digits(a)):
        taken = [1] if borrowed else []
        taken += [right[place]] if place < len(right) else []
        borrowed = digit < sum(taken)
        top = digit + 10 if borrowed else digit
        steps.append("-".join(map(str, [top, *taken])) + f"={top - sum(taken)}")
    return ", ".join(steps)


def product_steps(a: int, b: int) -> str:
    """*a* times the one digit *b*: 37 and 6 give '7*6=42, 3*6+4=22'."""
    steps, carry = [], 0
    for digit in _digits(a):
        total = digit * b + carry
        steps.append(f"{digit}*{b}" + (f"+{carry}" if carry else "") + f"={total}")
        carry = total // 10
    return ", ".join(steps)


STEPS = {"+": addition_steps, "-": subtraction_steps, "*": product_steps}


def result(a: int, sign: str, b: int) -> int:
    """The value of *a* *sign* *b*."""
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def answer(a: int, sign: str, b: int) -> str:
    """The answer to *a* *sign* *b*, with working where a number has two digits or more."""
    value = result(a, sign, b)
    if max(a, b) < 10:
        return f"{a} {sign} {b} = {value}."
    return f"{STEPS[sign](a, b)}. Answer: {value}."


def _operands(rng: Random, sign: str, digits: int) -> tuple[int, int]:
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
    a = rng.randint(low, high)
    if sign == "*":
        return a, rng.randint(2, 9)
    b = rng.randint(low, high) if rng.random() < 0.75 else rng.randint(0, a)
    return (max(a, b), min(a, b)) if sign == "-" or rng.random() < 0.1 else (a, b)


def _question(rng: Random, a: int, sign: str, b: int) -> str:
    if rng.random() < 0.15:
        text = rng.choice(NAMED[sign]).format(a=a, b=b)
        return text[0].upper() + text[1:]
    gap = "" if rng.random() < 0.1 else " "
    symbol = rng.choice("*x×") if sign == "*" else sign
    return rng.choice(ASK).format(x=f"{a}{gap}{symbol}{gap}{b}")


def _key(a: int, sign: str, b: int) -> str:
    """The content of a calculation; those of single digits are a table to learn by heart and are never held out."""
    if max(a, b) < 10:
        return TABLE_KEY
    return f"{a}{sign}{b}" if sign == "-" else f"{min(a, b)}{sign}{max(a, b)}"


def _calculation(rng: Random, name: str, digits: int, signs: str) -> Example:
    sign = rng.choice(signs)
    a, b = _operands(rng, sign, digits)
    value = str(result(a, sign, b))
    return Example(
        task=name, prompt=_question(rng, a, sign, b), answer=answer(a, sign, b), key=_key(a, sign, b), final=value
    )


def small(rng: Random) -> Example:
    """Numbers of one or two digits, with products by one digit."""
    return _calculation(rng, "arithmetic, 1-2 digits", 1 if rng.random() < 0.15 else 2, "++--*")


def three_digits(rng: Random) -> Example:
    """Sums and differences of three digits."""
    return _calculation(rng, "arithmetic, 3 digits", 3, "+-")


def four_digits(rng: Random) -> Example:
    """Sums and differences of four digits."""
    return _calculation(rng, "arithmetic, 4 digits", 4, "+-")
