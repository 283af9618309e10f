# ruff: noqa: E501 - tables read best with a kind per line
"""Checks which answers are equal: tables of (answer, gold), by kind; every row is a decision."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from simplerl.errors import ConfigError
from simplerl.rewards.equality import compare
from simplerl.rewards.rules import DIFFERENT, EQUAL, FAILED, NO_ANSWER, RULES, TIMEOUT

NO_UNITS = [
    "\\text{ or six}", "\\text{ and six}", " perhaps six", " nope six", " \\text{ maybe six}", "\\text{ hmm, six}", "\\text{ alternatively six}", "\\text{, six}", " below zero", "\\text{ negative}",
    " tenths", " hundredths", " halves", " thirds", " thousands", " millions of dollars", " hundreds", " dozens", "\\text{k}", "\\text{M}", "\\text{B}",
    " false", " rejected", " twice", " double", " fewer", " lakh", " crore", " mil", " per mille", " basis points", " quarter", " octal", " hexadecimal", " reciprocals", "\\text{ incorrect}", "\\text{ doubled}", " grand", " root two", " square root", "\\text{ pi}", "\\text{ twentieths}",
]  # fmt: skip
SAME = [
    # numbers
    ("18.0", "18"), ("18.", "18"), ("018", "18"), ("\\$18", "18"), ("$18$", "18"), ("1,000.00", "1000"), ("70,\\!000", "70000"),
    ("10{,}080", "10080"), ("11,\\! 111,\\! 100", "11111100"), ("1\\,000", "1000"), (".5", "0.5"), ("+5", "5"), ("--5", "5"),
    ("4.5 \\times 10^{33}", "4.5e33"), ("10^{3}", "1000"), ("5.47\\cdot 10^5", "547000"), ("2^{10}", "1024"), ("0.1\\overline{6}", "\\frac16"), ("\\approx 3.14", "3.14"),
    # fractions and mixed numbers
    ("\\frac12", "1/2"), ("\\frac1{72}", "\\tfrac{1}{72}"), ("\\dfrac{2}{4}", "0.5"), ("-\\frac{1}{3}", "\\frac{-1}{3}"),
    ("1\\frac{4}{5}", "9/5"), ("1 1/4", "1.25"), ("-1./3", "-\\frac{1}{3}"), ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("0.333333", "\\frac13"), ("3.1415927", "\\pi"), ("\\sqrt{17}", "4.1231"),
    ("⅓", "\\frac13"), ("3⅓", "\\frac{10}{3}"), ("⅞", "0.875"), ("2^{nd}", "2"),
    # percent: x % may mean x or x/100
    ("20\\%", "20"), ("20", "20\\%"), ("50\\%", "\\frac{1}{2}"), ("0.5", "50\\%"), ("28 \\text{ percent}", "28\\%"), ("28 pct", "28%"),
    # units and words after a value
    ("15\\mbox{ cm}^2", "15"), ("5\\text{ cm}", "5 cm"), ("18 dollars", "\\$18"), ("90^\\circ", "90"), ("90 \\text{ degrees}", "90^{\\circ}"),
    ("\\frac{1}{3} \\textbf{meters}", "1/3"), ("45^\\circ", "\\frac{\\pi}{4}"), ("12^{\\text{th}}", "12"), ("3x \\text{ cm}", "3x"), ("9.8\\,\\mathrm{m/s^2}", "9.8"),
    *((answer, "5") for answer in ("5\\text{ m}", "5\\text{ W}", "5^\\circ\\text{C}", "5 red apples", "5\\text{ squares}")),
    ("5\\text{ m}^2", "5 \\text{ square meters}"), ("5 \\text{ sq ft}", "5\\text{ ft}^2"), ("5^\\circ", "5^\\circ F"), ("5^\\circ C", "5 \\text{ degrees Celsius}"), ("5 \\text{ mph}", "5 \\text{ miles per hour}"),
    ("\\$5 \\text{ per hour}", "5 \\text{ dollars/hour}"), ("5\\text{ units}", "5 \\text{ square units}"), ("3+4\\mathrm{i}", "3+4i"), ("5\\text{i}", "5i"),
    ("5 zorks", "5.0 zorks"), ("5", "5 zorks"), ("5 cups of flour", "5"), ("25 \\text{ years old}", "25"), ("1 234.5", "1234.5"), ("-1 234", "-1234.0"), ("(1,2)\\text{ cm}", "(1,2)"), ("5 right triangles", "5"), ("12\\pi cm^2", "12\\pi"), ("12\\pi \\text{ square units}", "12\\pi"),
    ("60 rad", "60"), ("\\frac{\\pi}{3} \\text{ rad}", "60^\\circ"), ("60 degrees", "\\frac{\\pi}{3} \\text{ radians}"), ("45'", "45'"),
    # a modulus
    ("3", "3 \\pmod{5}"), ("3 (mod 5)", "3 \\bmod 5"), ("x\\equiv 3\\pmod{5}", "x \\equiv 3 (mod 5)"), ("x≡3 (mod 5)", "3 \\pmod{5}"),
    # spaces between digits
    ("1 3/4", "7/4"), ("2 1/3", "7/3"), ("1 000 000", "1000000"), ("10\\,000", "10000"), ("x = 10 000", "10,000"), ("\\frac 1 2", "\\frac12"), ("2023-01-02", "2023-01-02"),
    # lists and sets are unordered
    ("1, -2", "-2,1"), ("\\{1,-2\\}", "1,-2"), ("9 \\text{ and } 5", "5 or 9"), ("1\\pm\\sqrt5", "1-\\sqrt{5},1+\\sqrt{5}"),
    ("\\frac{1 \\pm i}{2}", "\\frac{1}{2}+\\frac{i}{2}, \\frac{1}{2}-\\frac{i}{2}"), ("(1,2), (3,4)", "(3,4),(1,2)"), ("(0;1),(2;3)", "(2,3),(0,1)"),
    ("x=1, x=2", "1,2"), ("p=5,q=2;p=7,q=2", "p = 5, q = 2 \\quad \\text{and} \\quad p = 7, q = 2"), ("\\text{A, C}", "C,A"),
    ("2 \\mp 1", "1,3"), ("2 \\pm 1", "1,3"), ("\\frac12\\pm\\frac32", "2,-1"),
    # tuples, intervals, inequalities
    ("\\{x\\in\\mathbb{R}\\mid x>2\\}", "(2,\\infty)"), ("\\{x: x>2\\}", "(2,\\infty)"), ("\\{(x,y): y=2x\\}", "y=2x"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"), ("(2,+\\infty)", "(2,\\infty)"), ("x>2", "(2,\\infty)"), ("-2\\le x\\le 7", "x \\in [-2,7]"),
    ("5 \\geq x", "x \\leq 5"), ("c<a<b", "b>a>c"), ("\\{x|-2\\le x<1\\}", "[-2,1)"), ("\\mathbb{R}", "(-\\infty,\\infty)"), ("a \\neq 2", "a ≠ 2"),
    ("x \\le -1 \\text{ or } x \\ge 3", "(-\\infty,-1]\\cup[3,\\infty)"), ("\\langle 1,2\\rangle", "(1,2)"), ("(x,y)=(1,2)", "(1,2)"), ("y=2, x=1", "(1,2)"), ("k\\pi, k\\in\\mathbb{Z}", "k\\pi, k \\in \\mathbb Z"),
    ("x<-7", "x<-7:(-\\infty,-7)"), ("\\{\\}", "\\emptyset"),
    ("\\mathbb{R}\\setminus\\{1\\}", "(-\\infty,1)\\cup(1,\\infty)"), ("\\mathbb{R}\\setminus\\{1\\}", "x\\ne1"), ("\\mathbb{R}-\\{2, -1\\}", "(-\\infty,-1)\\cup(-1,2)\\cup(2,\\infty)"),
    ("\\text{all real numbers except } 0", "(-\\infty,0)\\cup(0,\\infty)"), ("\\text{all reals}", "\\mathbb{R}"), ("all real numbers", "(-\\infty,\\infty)"), ("(4,-4,-2)", "Solution is: $[x=4, y=-4, z=-2]$"),
    # expressions, by value
    ("x^2+2x+1", "(x+1)^2"), ("-q+p", "p-q"), ("1+i\\sqrt{3}", "1+\\sqrt{3} i"), ("5\\cdot 2^{2/3}", "5\\sqrt[3]{4}"), ("\\sin^2 y", "1-\\cos^2(y)"),
    ("-16\\sqrt{2}\\sqrt{n}", "-16\\sqrt{2n}"), ("\\binom{n}{2}", "\\frac{n(n-1)}{2}"), ("{n \\choose 2}", "\\binom{n}{2}"), ("2 \\pi / \\omega", "\\frac{2\\pi}{\\omega}"), ("100 p^{1/2}", "100\\sqrt p"),
    ("\\frac{\\ln 2}{\\ln 3}", "\\log_3 2"), ("\\frac{\\log 2}{\\log 3}", "\\frac{\\ln 2}{\\ln 3}"), ("\\frac{\\sec^2 x}{2}+C", "\\frac{\\tan^2 x}{2}+C"), ("x_1+x_{2}", "x_2+x_{1}"),
    ("\\ln|x^2+1|", "\\ln(x^2+1)"), ("2\\ln|x|", "\\ln x^2"), ("\\bar x", "\\overline{x}"), ("\\sqrt{16}", "4"), ("1+\\sqrt{2}", "2.41421356"),
    # equations
    ("x=\\boxed{5}", "5"), ("\\boxed{x=\\boxed{5}}", "5"), ("5 = 10/2", "5"), ("3+5=8", "8"), ("\\sin A=\\frac35", "3/5"), ("4*12=48", "48"), ("\\frac{1}{2}=0.5", "1/2"), ("\\text{Area}=5", "5"), ("\\text{Sum of the first } 10 = 55", "55"),
    ("5", "x=5"), ("x=5", "5"), ("m+n = 371", "371"), ("f(x)=2x", "2x"), ("y-2x-3=0", "y=2x+3"), ("-34x-45y=1", "34x+45y=-1"), ("x=2+3=5", "5"), ("x\\approx 11", "11"),
    # matrices
    ("\\begin{bmatrix} -\\frac13 \\\\ 2 \\end{bmatrix}", "\\begin{pmatrix} -1/3 \\\\ 2 \\end{pmatrix}"), ("(1,2)", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    # words and choices
    ("Evelyn", "\\text{Evelyn}"), ("\\text{(C)}", "C"), ("\\textbf{(K)}", "K"), ("no solution", "\\emptyset"), ("\\text{Even}", "even"), ("four", "4"), ("\\text{(B) } 12", "B"), ("(B) 12", "\\text{(B)}"), ("10:30 \\text{ a.m.}", "10:30 am"), ("\\overline{AB}", "AB"), ("(B) no solution", "B"),
    # notation
    ("**5**", "5"), ("\\boxed{10}", "10"), ("\\(5\\)", "5"), ("5.", "5"), ("π", "\\pi"), ("5−3x", "5-3x"), ("\\\\frac{1}{2}", "\\frac12"), ("4210_5", "4210_{5}"), ("5/8", "5:8"),
]  # fmt: skip

OTHER = [
    # numbers are exact where the gold is
    ("12345678", "12345679"), ("1000.05", "1000"), ("4.6667", "\\frac{14}{3}"), ("3.14159", "\\pi"), ("5", "5.001"), ("2^{1008}", "2^{1009}"),
    ("10^{-20}", "10^{-16}"), ("0", "2.88e-19"), ("1/2^{99}", "1/2^{98}"), ("0.00000012", "0.00000034"), ("1/2004!", "1/2006!"), ("4\\sqrt2", "4"), ("2 2/3", "2"),
    ("1 3/4", "13/4"), ("21/3", "2 1/3"), ("-1 1/2", "-11/2"), ("(1 1/2,3)", "(11/2,3)"), ("3 4", "34"), ("1 2 3", "123"), ("10 00", "1000"), ("1 000 00", "100000"), ("\\text{3 4 cm}", "34 cm"),
    ("2023-01-02", "2023-02-01"), ("2023-11-12", "2000"), ("1/12/2023", "1/12/2023.0"),
    # a modulus, angles
    ("3 \\pmod 5", "3"), ("3(mod 5)", "3"), ("5 \\pmod{7}", "5 \\pmod{8}"), ("x\\equiv3\\pmod5", "x\\equiv3\\pmod7"), ("x\\equiv3\\pmod5", "3"), ("3", "x\\equiv3\\pmod5"), ("x\\equiv3", "3"), ("x\\equiv3", "x\\equiv3\\pmod5"), ("x \\mod 2", "x \\mod 3"), ("x \\mod 2", "x"),
    ("60 rad", "60^\\circ"), ("7 radians", "7^\\circ"), ("7 radians", "7 degrees"), ("45^{\\circ}", "45'"), ("45'", "45^\\circ"),
    # nothing is scaled without a percent sign
    ("50", "0.5"), ("13", "1300"), ("0\\%", "24 percent"),
    # letters are not units, and two quantities are not one
    ("6", "6m"), ("\\frac{37}{4} m", "37/4"), ("5\\text{ apples and } 3 \\text{ pears}", "5"), ("5 \\text{ cm}", "5 \\text{ m}"), ("1:58 pm", "1:58 am"), ("3 hours and 20 minutes", "3"),
    ("5 \\text{ is wrong, it is } 6", "5"), ("50 \\text{ cents}", "\\$50"), ("\\frac12\\text{ cm}", "\\frac12\\text{ m}"),
    *((answer, answer.split("\\mathrm")[0]) for answer in ("3+4\\mathrm{i}", "5\\mathrm{i}", "4\\mathrm{j}", "\\sqrt{3}\\mathrm{i}", "2\\mathrm{e}", "5\\mathrm{d}")), ("5\\text{i}", "5"),
    # words that hedge, count, compute or negate are not units, on either side
    *((f"5{tail}", "5") for tail in NO_UNITS), *(("5", f"5{tail}") for tail in NO_UNITS),
    # two units or things must be the same
    ("10 \\text{ north}", "10 \\text{ south}"), ("5 June", "5 July"), ("5 zorks", "5"), ("5 zorks", "5 blips"), ("5 win", "5 loss"), ("5^\\circ F", "5^\\circ C"), ("5^{\\circ}\\text{F}", "5^\\circ\\mathrm{C}"), ("5\\text{ m}", "5\\text{ m}^2"), ("5 \\text{ dollars}", "5 \\text{ dollars per hour}"),
    # every item counts, once
    ("3, 4", "3"), ("3 \\text{ or } 4", "3"), ("3 | 4", "3"), ("3 \\\\ 4", "4"), ("3 \\quad 4", "3"), ("3 \\text{ to } 4", "3"), ("1,1,2", "1,2,2"), ("7,7", "7"), ("1", "1,-2"), ("32, 349", "32349"),
    ("1,3,\\ldots,2n-1", "1,2,\\ldots,n"), ("1,2,3,...", "1,2,3"), ("x=1,x=2,x=57", "57"),
    # order and brackets of tuples and intervals
    ("(2,1)", "(1,2)"), ("x=2, y=1", "(1,2)"), ("[0,9)", "(0,9)"), ("(3,4)", "(3,4]"), ("-[0,1)", "1"), ("x>57", "57"), ("x \\ne 57", "57"), ("x<5", "x>5"), ("x>2", "y>2"),
    # equations are not their right sides
    ("2x+z=1", "1"), ("1=2=3=57", "57"), ("11a+c", "7 = 11a+c"), ("y=5", "x=5"), ("y=2x-3", "y=2x+3"), ("x=x", "x=5"),
    ("\\{x\\in\\mathbb{Z}: x>2\\}", "(2,\\infty)"), ("\\{x\\in\\mathbb{N}\\mid x>2\\}", "\\{x\\in\\mathbb{R}\\mid x>2\\}"), ("5\\text{ since }2+3=5", "5"), ("2+3=6", "6"), ("5=6", "5"), ("\\int_0^1 3x^2 dx=1", "1"), ("3 \\boxed{4}", "34"),
    # expressions
    ("\\ln|x|", "\\ln x"), ("\\ln x", "\\ln|x|"), ("\\ln x+C", "\\ln|x|+C"), ("\\bar{x}", "x"), ("\\overline{A}", "A"),
    ("n+1", "N=n"), ("|x|", "x"), ("\\sqrt{x^2}", "x"), ("x^2", "x^3"), ("\\frac{(x^2+1)^{101}}{202}", "(x^2+1)^{101}/202+C"), ("2 \\hbar", "\\hbar"), ("x+y", "x+z"),
    # unfinished computations
    ("16-3-4", "9"), ("1+1/2", "3/2"), ("1+\\frac{1}{2}", "1.5"), ("3+\\frac72", "\\frac{13}{2}"), ("17\\cdot 23", "391"), ("3!", "6"), ("\\binom{10}{3}", "120"), ("\\gcd(84,36)", "12"), ("\\log_2 8", "3"), ("|-3|", "3"), ("7+0\\cdot x", "7"), ("\\sin^2 x+\\cos^2 x", "1"),
    ("\\sqrt{16}+1", "5"), ("\\sqrt{400}+\\sqrt{1}", "21"), ("\\sqrt[3]{27}+1", "4"), ("\\sqrt{\\frac14}+1", "1.5"),
    ("\\int_0^1 3x^2 dx", "1"), ("\\sum_{k=1}^{100} k", "5050"), ("\\lim_{x\\to 0} x", "0"),
    # words, bases, placeholders
    ("A) or B)", "A"), ("(A) maybe (B)", "A"), ("(A) \\text{ not } B", "A"), ("(C) not (B)", "C"), ("(B) \\text{ or } (C)", "B"),
    ("\\text{west}", "\\text{east}"), ("oddd", "odd"), ("cab", "abc"), ("D", "\\text{(C)}"), ("(A) 5, (B) 6", "B"), ("(A) 12", "B"), ("(A) is wrong", "A"), ("(A) is incorrect", "A"), ("\\text{(A) is not the answer}", "A"), ("(A) \\text{ wrong}", "A"),
    ("\\{\\emptyset\\}", "\\emptyset"), ("\\{\\{1\\}\\}", "\\{1\\}"), ("\\sim p", "p"), ("\\mathbb{R}\\setminus\\{1\\}", "x\\ne2"), ("\\mathbb{R}\\setminus\\{1\\}", "\\mathbb{R}"), ("52_9", "52_8"), ("\\square", "5"), ("\\emptyset", "5"), ("1, 2", "②③"), ("<script>5</script>", "5"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_equal_answers(answer: str, gold: str) -> None:
    assert compare(answer, gold) == EQUAL


@pytest.mark.parametrize(("answer", "gold"), OTHER)
def test_different_answers(answer: str, gold: str) -> None:
    assert compare(answer, gold) == DIFFERENT


CALLS_SAME = [
    # a letter before a bracket is a product if it is a factor elsewhere, before a sum and before a power
    ("\\frac{n^2+n}{2}", "n(n+1)/2"), ("k^2-k", "k(k-1)"), ("a(x-i)(x-6)", "a(x-6)(x-i)"), ("a(b+c)", "ab+ac"), ("C(1+2x+x^2)", "C(x+1)^2"), ("m(2a-2b)", "2m(a-b)"),
    ("-A(e^{-kt}-1)", "A(1-e^{-kt})"), ("\\frac{a(r^n-1)}{r-1}", "\\frac{a(1-r^n)}{1-r}"), ("N_0(1/2)^{t/5}", "N_0(2)^{-t/5}"), ("x(2)", "2x"), ("xy", "(x)(y)"), ("(3)(n)", "(n)(3)"), ("x^n(n+1)", "(n+1)x^n"),
    ("\\log_a(2)+\\log_a(3)", "\\log_a(6)"), ("i(1+i)", "i-1"), ("4\\pi", "\\pi(4)"), ("h(\\frac{a+b}{2})", "\\frac{h(a+b)}{2}"),
    # function values are equal if their arguments are
    ("f(1+x)", "f(x+1)"), ("f(0.5)", "f(\\frac12)"), ("-f(1)+f(3)", "f(3)-f(1)"), ("f(x)f(x)", "f(x)^2"), ("\\frac{f(h+x)-f(x)}{h}", "\\frac{f(x+h)-f(x)}{h}"), ("e^{-t/(RC)} I(0)", "I(0) e^{-\\frac{t}{RC}}"),
    ("dy/dx", "\\frac{\\mathrm{d}y}{\\mathrm{d}x}"), ("a\\Delta t+v_0", "v_0+a\\Delta t"), ("\\frac ab", "\\frac{ad}{bd}"), ("\\angle CBA", "\\angle ABC"), ("\\angle{ABC}", "\\angle A B C"), ("\\angle B+\\angle A", "\\angle A + \\angle B"), ("\\Delta{T_1}", "\\Delta T_{1}"), ("A^{T}B", "A^\\top B"), ("\\frac{1}{A}", "A^{-1}"),
]  # fmt: skip
CALLS_OTHER = [
    *((answer, "I(0) e^{-\\frac{t}{RC}}") for answer in ("0", "I(0)", "5I(0)", "f(0)")), ("P(0)e^{-kt}", "P(0)e^{kt}"), ("f(0)x^3", "\\frac{f(0)}{2}x^2"), ("0", "f(0)"), ("B(0)", "A(0)"), ("f(2x)", "2f(x)"), ("2f(x)+1", "f(2x)+1"),
    ("-f(x)", "f(-x)"), ("f(x)+f(y)", "f(x+y)"), ("f(2)", "f(3)-f(1)"), ("g(f(x))", "f(g(x))"), ("E(X)^2", "E(X^2)"), ("AP(B)", "P(AB)"), ("2\\operatorname{Var}(X)", "\\operatorname{Var}(2X)"), ("2\\phi(n)", "\\phi(2n)"), ("f'(2x)", "2f'(x)"),
    ("\\frac{y}{x}", "\\frac{dy}{dx}"), ("\\frac1x", "\\frac{d}{dx}"), ("\\frac{u}{t}", "\\frac{\\partial u}{\\partial t}"), ("\\frac yx", "\\frac{\\Delta y}{\\Delta x}"),
    ("B^TA", "A^TB"), ("BA^{-1}", "A^{-1}B"), ("D", "PDP^{-1}"), ("\\angle ACB", "\\angle ABC"), ("\\triangle ACB", "\\triangle ABC"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), CALLS_SAME)
def test_products_and_equal_function_values(answer: str, gold: str) -> None:
    assert (compare(answer, gold), compare(gold, answer)) == (EQUAL, EQUAL)


@pytest.mark.parametrize(("answer", "gold"), CALLS_OTHER)
def test_function_values_derivatives_angles_and_matrices_are_no_products_of_letters(answer: str, gold: str) -> None:
    assert DIFFERENT == compare(answer, gold) == compare(gold, answer)


def test_measured_gold_answers_are_rounded() -> None:
    assert compare("56.003", "56.0", source="minerva_math") == EQUAL
    assert compare("56.003", "56.0") == DIFFERENT
    assert compare("5.4703e5", "547000.0", source="minerva_math") == EQUAL


def test_the_installed_antlr_is_the_one_hydra_needs_and_percent_works_under_it() -> None:
    """math-verify ships an outdated parser for antlr 4.9.3: without our patch every percent sign raises an error."""
    from simplerl.rewards import symbolic

    assert version("antlr4-python3-runtime") == "4.9.3"
    for answer, gold in [("20\\%", "20\\%"), ("20\\%", "20"), ("\\frac{1}{5}", "20\\%")]:
        assert compare(answer, gold) == EQUAL
    assert symbolic.math_verify_status("x+20\\%", "x+\\frac{1}{5}") == EQUAL


def test_math_verify_compares_what_our_parser_does_not_support() -> None:
    from simplerl.rewards import algebra

    assert algebra.parse_or_none("\\gcd(x,x)") is None
    assert compare("\\gcd(6x,4x)+y", "y+\\gcd(4x,6x)") == EQUAL
    assert compare("\\gcd(6x,4x)+y", "y+\\gcd(4x,9x)") == DIFFERENT


def test_exact_compares_normalised_strings_only() -> None:
    assert compare("\\dfrac{1}{2}", "$\\frac12$", rule="exact") == DIFFERENT
    assert compare("\\dfrac{1}{2}", "$\\frac{1}{2}$.", rule="exact") == EQUAL
    assert compare("0.5", "\\frac{1}{2}", rule="exact") == DIFFERENT


def test_empty_answers_and_golds() -> None:
    assert compare("  ", "5") == NO_ANSWER
    assert compare("$$", "5") == NO_ANSWER
    assert compare("5", "") == DIFFERENT


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="rule=sympy is unknown: choose one of math_verify, qwen, exact, qwen_train"):
        compare("1", "1", rule="sympy")


def test_a_slow_symbolic_comparison_is_a_timeout_and_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    from simplerl.rewards import symbolic

    answer, gold = "\\det(\\sqrt{u+v})", "\\operatorname{tr}(\\frac{u}{v})"
    with monkeypatch.context() as limited:
        limited.setattr(symbolic, "CPU_SECONDS", 1e-4)
        assert compare(answer, gold) == TIMEOUT
    assert compare(answer, gold) == DIFFERENT


def test_a_broken_installation_is_a_failure_and_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    from simplerl.rewards import symbolic

    answer, gold = "\\gcd(3x,4x)+y", "y+\\gcd(4x,3x)"
    with monkeypatch.context() as broken:
        broken.setattr(symbolic, "load_math_verify", lambda: __import__("a_missing_package"))
        assert compare(answer, gold) == FAILED
    assert compare(answer, gold) == EQUAL


PAYLOADS = [
    "__import__('pathlib').Path('{file}').touch()",
    "(lambda:open('{file}','w'))()",
    "[open('{file}','w')]",
    "{{1:open('{file}','w')}}",
    "exec(open('{file}','w'))",
    "__import__('os').system('touch {file}')",
    "1+__import__('os').system('touch {file}')",
    "sympify(open('{file}','w'))",
    "\\text{{__import__('os').system('touch {file}')}}",
    "$(touch {file})",
    "`touch {file}`",
    "\\input{{|touch {file}}}",
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gold", ["5", "x+1", "\\text{yes}", "[1]"])
def test_model_text_is_never_run(rule: str, gold: str, tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    for payload in PAYLOADS:
        text = payload.format(file=target)
        assert compare(text, gold, rule=rule) == DIFFERENT
        assert compare(f"x={text}", gold, rule=rule) == DIFFERENT
    assert not target.exists()


def test_no_module_of_the_grader_evaluates_text() -> None:
    """The source of the grader never calls eval, exec, sympify or parse_expr."""
    import ast

    import simplerl.rewards

    banned = {"eval", "exec", "sympify", "parse_expr", "system", "popen"}
    for path in Path(simplerl.rewards.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                assert name not in banned, f"{path.name} calls {name}"


def test_importing_the_rewards_is_light() -> None:
    """sympy, math-verify, torch and transformers are not imported until a comparison needs them."""
    code = (
        "import sys, simplerl.rewards\n"
        "print([m for m in ('sympy', 'math_verify', 'torch', 'transformers', 'vllm', 'ray') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_grading_logs_nothing_of_the_answers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        compare("\\frac{\\gcd(x", "\\det(y)")
        compare("y" * 100_000, "\\det(y)")
    assert sum(len(record.getMessage()) for record in caplog.records) < 1000
