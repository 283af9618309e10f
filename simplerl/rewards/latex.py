r"""Parses mathematical expressions in LaTeX or plain notation into trees of tuples.

The nodes are ("num", Fraction, is_decimal), ("sym", name), ("add", a, b, ...), ("mul", a, b, ...), ("div", a, b),
("neg", a), ("pow", a, b), ("deg", a) for a value in degrees, and ("call", name, a, ...). The whole text must be an
expression of these kinds: an integral, a word or two adjacent numbers raise ParseError, and no prefix is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]
MAX_TOKENS, MAX_DEPTH, MAX_TREE_DEPTH = 400, 24, 60
DIGITS = "0123456789"

_NUMERAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][0-9]{1,3}(?![0-9]))?"
TOKEN = re.compile(rf"\s*({_NUMERAL}|\\[A-Za-z]+|\\.|.)", re.S)
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp",
    "arccot", "arcsec", "arccsc",
}  # fmt: skip
GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "rho",
    "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma",
    "Phi", "Psi", "Omega", "hbar", "ell", "vartheta", "varrho", "partial", "nabla", "infty", "angle", "triangle",
}  # fmt: skip
_FACTOR_COMMANDS = FUNCTIONS | GREEK | {"frac", "binom", "sqrt", "pi", "mathrm", "apply"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


class ParseError(ValueError):
    """Raised for a text that is not an expression of the supported kinds."""


def parse(text: str, *, tight: bool = False) -> Tree:
    """Return the tree of the whole text. tight: a/2b means a/(2b) instead of (a/2)b. Raises ParseError."""
    tokens = TOKEN.findall(text.strip())
    if len(tokens) > MAX_TOKENS:
        raise ParseError(f"more than {MAX_TOKENS} tokens")
    parser = _Parser(tokens, tight)
    tree = parser.sum()
    if parser.peek() is not None:
        raise ParseError(f"unexpected {parser.peek()}")
    if len(tokens) > MAX_TREE_DEPTH and _depth(tree) > MAX_TREE_DEPTH:
        raise ParseError(f"nested more than {MAX_TREE_DEPTH} deep")
    return tree


def _depth(tree: Tree) -> int:
    """Return the depth of a tree, without recursion."""
    level, depth = [tree], 0
    while level:
        level = [part for node in level for part in node[1:] if isinstance(part, tuple)]
        depth += 1
    return depth


class _Parser:
    """Parses a list of tokens by recursive descent, with one method per rule of the grammar."""

    def __init__(self, tokens: list[str], tight: bool) -> None:
        self.tokens, self.position, self.tight = tokens, 0, tight
        self.depth, self.nested, self.bars = 0, 0, 0

    def peek(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def advance(self) -> str:
        if self.position >= len(self.tokens):
            raise ParseError("unexpected end of the expression")
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, token: str) -> None:
        if self.advance() != token:
            raise ParseError(f"expected {token}")

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError(f"nested more than {MAX_DEPTH} deep")
        terms = [self.term()]
        while self.peek() in ("+", "-"):
            negative = self.advance() == "-"
            term = self.term()
            terms.append(("neg", term) if negative else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def term(self) -> Tree:
        sign = 0
        while self.peek() in ("+", "-"):
            sign ^= self.advance() == "-"
        tree = self.product(self.power())
        while self.peek() in ("*", "/"):
            if self.advance() == "*":
                tree = _times(tree, self.product(self.signed_power()))
            else:
                below = self.signed_power()
                if self.tight:
                    below = self.product(below)
                tree = self.product(("div", tree, below))
        return ("neg", tree) if sign else tree

    def signed_power(self) -> Tree:
        if self.peek() == "-":
            self.advance()
            return ("neg", self.power())
        return self.power()

    def product(self, tree: Tree) -> Tree:
        r"""Return `tree` times the factors that follow it without an operator; a proper \frac after an integer is added
        (mixed number). Raises ParseError for two adjacent numerals."""
        while self.starts_factor():
            token = self.peek()
            if token is not None and (token[0] in DIGITS or token[0] == ".") and _ends_in_number(tree):
                raise ParseError("two adjacent numbers")
            factor = self.power()
            if token == "\\frac" and tree[0] == "num" and not tree[2] and _is_proper_fraction(factor):
                tree = _mixed_number(tree, factor)
            else:
                tree = _times(tree, factor)
        return tree

    def starts_factor(self) -> bool:
        token = self.peek()
        if token is None or (token == "|" and self.bars):
            return False
        return (
            (token[0].isascii() and token[0].isalnum())
            or token[0] == "."
            or token in ("(", "[", "{", "\\lfloor", "\\lceil", "|")
            or (token[0] == "\\" and token[1:] in _FACTOR_COMMANDS)
        )

    def power(self) -> Tree:
        tree = self.atom()
        while True:
            token = self.peek()
            if token == "^":
                self.advance()
                tree = ("deg", tree) if self.degree_mark() else ("pow", tree, self.script())
            elif token == "!":
                self.advance()
                if self.peek() == "!":
                    raise ParseError("double factorial")
                tree = ("call", "factorial", tree)
            else:
                return tree

    def degree_mark(self) -> bool:
        for mark in (["\\circ"], ["{", "\\circ", "}"]):
            if self.tokens[self.position : self.position + len(mark)] == mark:
                self.position += len(mark)
                return True
        return False

    def script(self) -> Tree:
        """Parse an exponent or the base of a function: a group in braces, or one operand, after any minus signs."""
        negative = False
        while self.peek() == "-":
            self.advance()
            negative = not negative
        tree = self.group("{") if self.peek() == "{" else self.atom()
        return ("neg", tree) if negative else tree

    def group(self, opening: str) -> Tree:
        self.expect(opening)
        bars, self.bars = self.bars, 0
        tree = self.sum()
        self.bars = bars
        self.expect(_CLOSING[opening])
        return tree

    def argument(self) -> Tree:
        r"""Parse an argument of \frac or \sqrt: a group in braces, or a single digit or token."""
        token = self.peek()
        if token == "{":
            return self.group("{")
        if token is not None and token[0] in DIGITS and len(token) > 1:
            self.tokens[self.position : self.position + 1] = [token[0], token[1:]]
        return self.atom()

    def atom(self) -> Tree:
        r"""Parse one operand; \\sqrt\\sqrt\\sqrt and |||| nest without brackets, so the depth is limited here too."""
        self.nested += 1
        if self.nested > MAX_TREE_DEPTH:
            raise ParseError(f"nested more than {MAX_TREE_DEPTH} deep")
        tree = self.operand()
        self.nested -= 1
        return tree

    def operand(self) -> Tree:
        token = self.advance()
        if token[0] in DIGITS or (token[0] == "." and len(token) > 1):
            mantissa, e, exponent = token.lower().partition("e")  # 2e3 is 2000, not 6e
            value = Fraction(mantissa.rstrip(".")) * 10 ** int(exponent or 0)
            return ("num", value, bool(e) or "." in token.rstrip("."))
        if token in ("(", "[", "{"):
            self.position -= 1
            return self.group(token)
        if token == "|":
            self.bars += 1
            tree = self.sum()
            self.bars -= 1
            self.expect("|")
            return ("call", "abs", tree)
        if token in ("\\lfloor", "\\lceil"):
            self.position -= 1
            return ("call", token[2:], self.group(token))
        if token.isalpha() and token.isascii():
            return self.symbol(token)
        if token[0] == "\\":
            return self.command(token[1:])
        raise ParseError(f"unexpected {token}")

    def symbol(self, name: str) -> Tree:
        while self.peek() in ("_", "'"):
            if self.advance() == "_":
                name += "_" + self.subscript()
            else:
                name += "'"
        return ("sym", name)

    def subscript(self) -> str:
        if self.peek() != "{":
            return self.advance()
        pieces: list[str] = []
        depth = 0
        while True:
            token = self.advance()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return "".join(pieces)
            if token != "{":
                pieces.append(token)

    def command(self, name: str) -> Tree:  # noqa: PLR0911 - one return per kind of command
        if name in FUNCTIONS:
            return self.function(name)
        if name == "Gamma" and self.peek() == "(":
            return ("call", "gamma", self.group("("))
        if name == "pi" or name in GREEK:
            return self.symbol("\\" + name)
        if name in ("frac", "binom"):
            above, below = self.argument(), self.argument()
            return ("div", above, below) if name == "frac" else ("call", "binom", above, below)
        if name == "sqrt":
            degree = (self.group("["),) if self.peek() == "[" else ()
            return ("call", "root" if degree else "sqrt", self.argument(), *degree)
        if name == "mathrm":
            return self.group("{")
        if name == "apply":  # a mark of simplerl.rewards.opaque
            return ("call", "apply", ("sym", self.subscript()), self.group("("))
        raise ParseError(f"unsupported command \\{name}")

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        exponent: Tree | None = None
        while self.peek() in ("_", "^"):
            if self.advance() == "_":
                base = self.script()
            else:
                exponent = self.script()
        if self.peek() in ("(", "[", "{", "|"):
            inside = self.atom()
            while self.peek() == "^" and exponent is None and self.tokens[self.position - 1] != ")":
                self.advance()
                inside = ("pow", inside, self.script())
        else:
            negative = self.peek() == "-" and self.advance() == "-"
            inside = self.power()
            while self.starts_factor() and (self.peek() or "")[1:] not in FUNCTIONS and self.peek() not in ("(", "["):
                inside = _times(inside, self.power())
            inside = ("neg", inside) if negative else inside
        tree: Tree = ("call", name, inside) if base is None else ("call", "log_base", inside, base)
        if exponent is None:
            return tree
        if exponent == ("neg", ("num", Fraction(1), False)) and name in ("sin", "cos", "tan"):
            return ("call", "arc" + name, inside)
        return ("pow", tree, exponent)


def _times(a: Tree, b: Tree) -> Tree:
    return ("mul", *(a[1:] if a[0] == "mul" else (a,)), b)


def _ends_in_number(tree: Tree) -> bool:
    last = tree[-1] if tree[0] == "mul" else tree
    return bool(last[0] == "num" or (last[0] == "pow" and last[2][0] == "num"))


def _mixed_number(whole: Tree, fraction: Tree) -> Tree:
    r"""Return 1\frac{1}{2} as the one fraction 3/2, which differs from the sum 1+\frac{1}{2}: that is not finished."""
    _, (_, above, _), (_, below, _) = fraction
    return ("div", ("num", whole[1] * below + above, False), ("num", below, False))


def _is_proper_fraction(tree: Tree) -> bool:
    return bool(tree[0] == "div" and tree[1][0] == tree[2][0] == "num" and tree[1][1] < tree[2][1])


def nodes(tree: Tree) -> Iterator[Tree]:
    """Yield a tree and all of its subtrees."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from nodes(part)


def symbols(tree: Tree) -> set[str]:
    """Return the names of all variables and constants in a tree."""
    return {node[1] for node in nodes(tree) if node[0] == "sym"}


def contains(tree: Tree, *heads: str) -> bool:
    """Return whether a tree has a node of one of these kinds, such as "add", or a call of a function of one of these
    names."""
    return any(node[0] in heads or (node[0] == "call" and node[1] in heads) for node in nodes(tree))


def has_decimal(tree: Tree) -> bool:
    """Return whether a number in the tree is written with a decimal point."""
    return any(node[0] == "num" and node[2] for node in nodes(tree))
