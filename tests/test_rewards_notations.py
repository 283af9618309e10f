# ruff: noqa: E501 - tables read best with a kind per line; other scripts are part of the cases
"""Checks how answers in other notations are graded: a table of equal and different pairs per kind, and properties."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplerl import audit
from simplerl.bench.grader_notations import DAMAGES, NOTATIONS, describe_sources, judge, read_golds
from simplerl.errors import ConfigError
from simplerl.rewards import decorations, strict
from simplerl.rewards.equality import compare, is_readable, warm_up
from simplerl.rewards.equality import judge as judge_answer
from simplerl.rewards.rules import DIFFERENT, EQUAL, FAILED, NO_ANSWER
from simplerl.types import Problem

KINDS: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    "text-punctuation": (
        [("\\text{decreases by } 3/4", "\\text{decreases by } \\frac{3}{4}"), ("\\text{Team A wins by } 2.5", "\\text{team A wins by } 2.50"), ("2.4 \\text{ thousand}", "2.4\\text{ thousand}"), ("\\frac{1}{2} \\text{ if } n \\text{ is even}", "1/2 \\text{ if } n \\text{ is even}")],
        [("3.2 \\text{ billion}", "32 \\text{ billion}"), ("1/3 \\text{ of the cake}", "13 \\text{ of the cake}"), ("\\text{about } 0.5 \\text{ percent}", "\\text{about } 5 \\text{ percent}"), ("-5 \\text{ (downward)}", "5 \\text{ (downward)}"), ("7.5\\text{ hundred}", "75\\text{ hundred}"), ("\\text{between } 1.5 \\text{ and } 2", "\\text{between } 15 \\text{ and } 2")],
    ),
    "foreign-words": (
        [("100\\text{円}", "100"), ("100円", "100"), ("30度", "30"), ("8\\text{ 厘米}", "8"), ("8 厘米", "8\\text{ cm}"), ("15分钟", "15"), ("3人", "3"), ("6\\text{ 天}", "6")],
        [("5\\text{ 百}", "5"), ("5\\text{ 亿}", "5"), ("5\\text{ 左右}", "5"), ("7\\text{ или восемь}", "7"), ("7\\text{ тысяч}", "7"), ("5\\text{ 만}", "5")],
    ),
    "option-with-value": (
        [("\\text{C. } \\frac{3}{4}", "C"), ("C: 12", "C"), ("(C)\\ 12", "C"), ("C) 12", "C"), ("\\text{答案C}", "C"), ("\\text{Answer: } C", "C"), ("\\textbf{C}", "C"), ("C\\ (x>2)", "C")],
        [("\\text{C or D}", "C"), ("\\text{not C}", "C"), ("C+1", "C"), ("C", "\\text{D. }5"), ("6", "\\text{D. }5"), ("\\text{D. }6", "\\text{D. }5")],
    ),
    "several-options": (
        [("B, D", "BD"), ("DB", "BD"), ("\\text{B and D}", "BD"), ("B和D", "BD"), ("B,C,D", "BCD"), ("(B), (D)", "BD"), ("BD", "B, D"), ("B;D", "BD")],
        [("BC", "BCD"), ("BCD", "BD"), ("B \\text{ or } D", "BD"), ("B", "B,D"), ("BDD", "BD")],
    ),
    "unit-in-brackets": (
        [("7", "7 (meters)"), ("7 \\text{ (meters)}", "7"), ("7 (\\text{m}^2)", "7"), ("12(\\mathrm{cm})", "12"), ("12\\ (\\mathrm{~km})", "12 km"), ("\\frac{3}{2}(\\text{hours})", "1.5"), ("12 (kg)", "12"), ("12 (students)", "12")],
        [("12 (cm)", "12(\\mathrm{mm})"), ("12 (correct)", "12"), ("12 (x)", "12"), ("13", "12 (students)"), ("5(x+1)", "5"), ("12 (approximately)", "12")],
    ),
    "escaped-twice": (
        [("\\frac{1}{3}", "\\\\frac{1}{3}"), ("3\\sqrt[3]{2}", "3\\\\sqrt[3]{2}"), ("\\theta", "\\\\theta"), ("\\sin x", "\\\\sin x"), ("x \\geq 3", "x \\\\geq 3"), ("(-\\infty, 2]", "(-\\\\infty, 2]"), ("\\$5", "\\\\$5"), ("\\{3\\}", "\\\\{3\\\\}")],
        [("\\log_3 5", "\\\\log_2 5"), ("3\\\\pi", "2\\pi"), ("1\\\\2", "12")],
    ),
    "matrix-form": (
        [("\\left[\\begin{array}{l}1\\\\2\\end{array}\\right]", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("2\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}", "\\begin{pmatrix}2&0\\\\0&2\\end{pmatrix}"), ("-\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}", "\\begin{pmatrix}-1&0\\\\0&-1\\end{pmatrix}"), ("\\frac{1}{3}\\left[\\begin{array}{cc}3&6\\\\9&0\\end{array}\\right]", "\\begin{bmatrix}1&2\\\\3&0\\end{bmatrix}"), ("\\begin{pmatrix}1&2\\end{pmatrix}^T", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("[1,2]^T", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"), ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^T", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"), ("\\begin{pmatrix}1&2\\\\3&4\\\\\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}")],
        [("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^T", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"), ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{-1}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "2\\begin{pmatrix}1\\\\2\\end{pmatrix}")],
    ),
    "unicode-maths": (
        [("2³", "8"), ("x⁻²", "x^{-2}"), ("10⁻⁶", "10^{-6}"), ("2ˣ", "2^x"), ("a₁₂", "a_{12}"), ("x²+y²", "x^2+y^2"), ("√2/2", "\\frac{\\sqrt{2}}{2}"), ("√(x+1)", "\\sqrt{x+1}")],
        [("⌈x⌉", "\\lfloor x\\rfloor"), ("x² − 1", "x2-1"), ("10⁶", "106"), ("5₃", "53"), ("A ⊂ B", "B\\subset A"), ("n⁺", "n")],
    ),
    "quantifier": (
        [("f(x)=2x+1 \\text{ for every real } x", "f(x)=2x+1"), ("f(x)=x+1,\\ x\\in\\mathbb{R}", "f(x)=x+1"), ("f(n)=n \\text{ for all positive integers } n", "f(n)=n"), ("f(x)=c \\text{ for all } x \\in \\mathbb{R}", "f(x)=c"), ("f(x)=x^2 \\text{ for any } x", "f(x)=x^2"), ("f(x) = 0 \\; (\\forall x \\in \\mathbb{R})", "f(x)=0"), ("f(x)=x", "f(x)=x \\text{ for all real numbers } x"), ("2n+1 \\text{ for all } n", "2n+1")],
        [("f(x)=x^2 \\text{ for all } x", "f(x)=x"), ("f(x)=x \\text{ for all } x > 0", "f(x)=x"), ("f(x)=x \\text{ for some } x", "f(x)=x"), ("f(x)=x \\text{ for all } x\\neq 0", "f(x)=x")],
    ),
    "base-time-ratio": (
        [("212_{3}", "(212)_3"), ("212_{\\text{three}}", "212_3"), ("212_{\\text{base } 3}", "212_3"), ("1A_{16}", "(1A)_{16}"), ("\\text{7:05}", "7:05"), ("07:05", "7:05"), ("7:05 \\text{ p.m.}", "7:05 pm"), ("2 \\text{ hours } 30 \\text{ minutes}", "2 hours and 30 minutes")],
        [("(212)_{3}", "212_{4}"), ("7:05 am", "7:05 pm"), ("7:50", "7:05"), ("2 \\text{ h } 30 \\text{ min}", "2 hours 20 minutes"), ("2:3:4", "4:3:2"), ("4:1", "1:4")],
    ),
    "display-delimiters": (
        [("\\[7\\]", "7"), ("\\[ x=7 \\]", "7"), ("7", "\\[ 7 \\]"), ("\\frac12", "\\[\\frac{1}{2}\\]"), ("$$7$$", "7"), ("\\(7\\)", "7"), ("2.5", "\\[2.5\\]"), ("[7,8]", "\\[[7,8]\\]")],
        [("8", "\\[7\\]"), ("[7,8]", "\\[7,8\\]"), ("25", "\\[2.5\\]"), ("\\begin{pmatrix}1\\\\[2]\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}")],
    ),
    "chinese-connectors": (
        [("3或-3", "-3,3"), ("x=1或x=2", "1,2"), ("x=1 \\text{ 或 } x=2", "x=1,x=2"), ("2和8", "2,8"), ("2与8", "2,8"), ("2、8", "2,8"), ("2\\text{、}8", "2,8"), ("②④", "②、④")],
        [("2或8", "2"), ("①②", "①③"), ("(1)(2)", "①③"), ("③", "3")],
    ),
    "set-braces": (
        [("(1,5)", "{x|1<x<5}"), ("{x|1<x<5}", "(1,5)"), ("\\{x|1<x<5\\}", "{x | 1 < x < 5}"), ("{1,2}", "\\{1,2\\}"), ("{2,1}", "{1,2}"), ("{1}", "\\{1\\}"), ("{x|x<1 \\text{ or } x>2}", "(-\\infty,1)\\cup(2,\\infty)"), ("{(1,2)}", "(1,2)")],
        [("[1,5)", "{x|1<x<5}"), ("\\{x\\mid x\\ge 2\\}", "{x|x>2}"), ("{x\\in\\mathbb{Z}|x>2}", "(2,\\infty)"), ("{0,1,2}", "{0,1}")],
    ),
    "percent-and-unit": (
        [("0.4", "40\\%"), ("40", "40\\%"), ("12.5\\%", "\\frac{1}{8}"), ("12.5\\%", "12.5"), ("0.4\\%", "0.4"), ("40\\text{ percent}", "0.40"), ("40\\%", "40\\text{ percent}")],
        [("40\\%", "0.4 \\text{ m}"), ("40\\%", "40 \\text{ kg}"), ("40 \\text{ kg}", "40\\%"), ("40 \\text{ apples}", "40\\%"), ("40\\%", "\\$40"), ("40\\%", "40^\\circ")],
    ),
    "gold-sentence": (
        [("12", "The answer is \\(12\\)."), ("12", "The number of ways is $12$."), ("5", "Therefore, the value of $x$ is $5$."), ("\\frac{1}{2}", "The probability is \\(\\frac{1}{2}\\).")],
        [("13", "The answer is \\(12\\)."), ("6", "Therefore, the value of $x$ is $5$."), ("10", "The smallest possible value of \\(a_{10}\\) is \\(248\\)."), ("a_{10}", "The smallest possible value of \\(a_{10}\\) is \\(248\\).")],
    ),
    "circ-without-hat": (
        [("25\\circ", "25"), ("25\\circ C", "25"), ("25 ^\\circ C", "25\\circ C"), ("f\\circ g", "f\\circ g"), ("45\\circ", "45^\\circ"), ("45^{\\circ}", "45\\circ"), ("30\\circ 15'", "30^\\circ 15'"), ("25\\text{\\circ}C", "25")],
        [("25\\circ F", "25^\\circ C"), ("g\\circ f", "f\\circ g"), ("45\\circ", "46^\\circ"), ("\\circ", "5"), ("\\circ C", "C"), ("C\\circ", "5")],
    ),
    "intervals": (
        [("2<x<5", "(2,5)"), ("5>x>2", "(2,5)"), ("(2,5)", "5>x>2"), ("x>2", "(2,\\infty)"), ("2<x", "x>2"), ("x\\ge2", "[2,\\infty)"), ("[2,\\infty)", "x \\geq 2"), ("x<1 \\text{ or } x>3", "(-\\infty,1)\\cup(3,\\infty)")],
        [("2\\leq x<5", "(2,5]"), ("5<x<2", "(2,5)"), ("2 < a < 5", "2<b<5")],
    ),
    "approx": (
        [("\\frac{\\pi}{4}\\approx 0.785", "\\frac{\\pi}{4}"), ("\\sqrt{2}\\approx1.414", "\\sqrt{2}"), ("x=\\ln 2\\approx 0.693", "\\ln 2"), ("\\ln 2", "\\ln 2\\approx0.693"), ("0.693147", "\\ln 2\\approx0.693"), ("\\approx 3.14", "3.14"), ("\\frac{1}{3}\\approx 0.333", "1/3"), ("100\\pi \\approx 314.16", "100\\pi")],
        [("\\sqrt2 \\approx 1.514", "\\sqrt2"), ("5\\approx 6", "5"), ("\\frac{22}{7}\\approx \\pi", "\\pi"), ("\\ln 3", "\\ln 2\\approx0.693")],
    ),
    "last-side": (
        [("x=2+3=5", "5"), ("\\frac{10}{2}=5", "5"), ("S=\\frac{1}{2}\\cdot 4\\cdot 5=10", "10"), ("\\binom{5}{2}=10", "10"), ("3!=6", "6"), ("a+b=3+4=7", "7"), ("P=\\frac{1}{2}=0.5", "\\frac12"), ("5", "x=5")],
        [("2\\cdot 3=7", "7"), ("x+y=5", "x=5"), ("2x=5", "5"), ("x^2=4", "4")],
    ),
    "degree-minutes": (
        [("30^\\circ 30'", "30^\\circ30'"), ("30^\\circ 30'", "30.5^\\circ"), ("30^{\\circ} 30^{\\prime}", "30°30′"), ("30^\\circ 30' 36''", "30.51^\\circ"), ("30.5", "30^\\circ 30'"), ("30度30分", "30^\\circ30'")],
        [("30^\\circ 30'", "30^\\circ 20'"), ("30^\\circ 3'", "303"), ("30^\\circ 30'", "31^\\circ"), ("12^\\circ 5'", "12^\\circ 50'")],
    ),
    "or-and-inequalities": (
        [("x>3 \\text{ and } x<5", "(3,5)"), ("x<3或x>5", "x<3, x>5"), ("x\\ge 0, x\\ne 1", "\\{x|x\\ge 0 \\text{ and } x\\ne 1\\}"), ("x>0 \\text{ and } y<1", "y<1, x>0"), ("x>\\sqrt{2} \\wedge x<2", "(\\sqrt{2},2)")],
        [("x>3 \\text{ or } x<5", "(3,5)"), ("[1,2]", "x\\ge 1 \\text{ or } x\\le 2"), ("\\{x|x>3 \\text{ or } x<5\\}", "(3,5)"), ("1<x<3 \\text{ and } 5<x<7", "(1,3)\\cup(5,7)"), ("x>0 \\text{ and } y<1", "x>0 \\text{ or } y<1"), ("p \\vee q", "p \\wedge q"), ("x\\in(0,1) \\text{ and } x\\in(1,2)", "(0,1)\\cup(1,2)")],
    ),
    "point-or-thousands": (
        [("4, 112", "(4,112)"), ("(4,\\ 112)", "(4,112)"), ("4,112", "4112"), ("\\$4,112", "4112"), ("4,112\\text{ dollars}", "4112"), ("(4{,}112)", "4112"), ("\\{112, 4\\}", "\\{4,112\\}")],
        [("4112", "(4,112)"), ("4,112", "(4,112)"), ("(20100)", "(20,100)"), ("(0125) \\cup(125, \\infty)", "(0,125) \\cup(125, \\infty)"), ("\\{4112\\}", "\\{4,112\\}")],
    ),
    "gamma": (
        [("\\gamma^{2}+1", "1+\\gamma^2"), ("\\gcd(\\gamma,2)+\\gamma^2", "\\gamma^2+\\gcd(2,\\gamma)"), ("\\frac{1}{\\gamma^{2}}", "\\gamma^{-2}")],
        [("\\gamma^{2}1", "\\gamma^{2}+1"), ("\\gamma^{3}1", "\\gamma^{2}+1"), ("\\frac{h^{2}\\left(\\gamma^{2}1\\right)}{r^{3}}", "\\frac{h^{2}\\left(\\gamma^{2}+1\\right)}{r^{3}}")],
    ),
    "clock-or-ratio": (
        [("5:00", "05\\!:\\!00"), ("05 : 00", "05\\!:\\!00"), ("3:05 \\text{ pm}", "3\\!:\\!05 pm"), ("3:5", "6:10")],
        [("15:00", "05\\!:\\!00"), ("6\\!:\\!00", "05\\!:\\!00"), ("3:5", "3:05"), ("1:02:03", "2:04:06")],
    ),
    "formula-in-prose": (
        [("\\text{the density is } x/2 \\text{ for } x>0", "\\text{the density is } \\frac{x}{2} \\text{ for } x>0"), ("y=\\frac{c}{x-c} \\quad y \\equiv-1", "y=\\frac{c}{-c+x} \\quad y \\equiv-1"), ("profit=2x", "2x=profit"), ("the x-axis", "\\text{the x axis}")],
        [("f(y) equals $(k/4)y$ for $y>0$ and otherwise equals 0", "f(y) equals $(k/3)y$ for $y>0$ and otherwise equals 0"), ("y=\\frac{c}{xc} \\quad y \\equiv-1", "y=\\frac{c}{x-c} \\quad y \\equiv-1"), ("the total cost 2x < 5", "the total cost 3x < 5")],
    ),
    "text-beside-a-value": (
        [("5 \\text{ (mod 7)}", "5 \\pmod 7"), ("5", "5 \\pmod 7"), ("\\text{B} \\text{ none}", "B"), ("5 \\text{ quarters}", "5 quarters"), ("5 \\text{ cubic meters}", "5")],
        [("5 \\text{ (mod 7)}", "5"), ("5(mod 7)", "5"), ("\\text{B}2", "B"), ("\\text{B}+1", "B"), ("C?", "C"), ("5 \\text{ cubic}", "5"), ("5 \\text{ roots}", "5")],
    ),
    "log-bases": (
        [("\\lg 2", "\\log_{10} 2"), ("\\lg^2 x", "(\\log_{10} x)^2"), ("\\log x^2", "2\\log x"), ("-2", "\\log (0.01)=-2"), ("\\frac{\\log 2}{\\log 2-\\log 3}", "\\frac{\\ln 2}{\\ln 2-\\ln 3}")],
        [("\\log 100", "\\ln 100"), ("\\log x", "\\log_{10} x"), ("\\lg 2", "\\ln 2"), ("\\lg 2", "\\log 2")],
    ),
    "matrix-in-brackets": (
        [("\\pmatrix{1&2\\cr 3&4}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\left[\\matrix{1\\\\2}\\right]", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"), ("[1,2;3,4]", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"), ("\\begin{pmatrix}2&4\\\\6&8\\end{pmatrix}/2", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}")],
        [("[1,2;3,4]", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"), ("[1,2;3,4]", "(1,2,3,4)"), ("[1;2]", "\\begin{pmatrix}1&2\\end{pmatrix}"), ("\\begin{pmatrix}2&4\\\\6&8\\end{pmatrix}/2", "\\begin{pmatrix}2&4\\\\6&8\\end{pmatrix}")],
    ),
    "words-for-signs": (
        [("30\\text{ degrees }30\\text{ minutes}", "30^\\circ30'"), ("30 degrees, 30 minutes and 36 seconds", "30^\\circ30'36''"), ("12\\text{ руб.}", "12"), ("5\\text{ шт.}", "5")],
        [("30\\text{ degrees }20\\text{ minutes}", "30^\\circ30'"), ("30\\text{ hours }30\\text{ minutes}", "30^\\circ30'"), ("12\\text{ тыс.}", "12")],
    ),
    "roman-numerals-and-sides": (
        [("x=3,且y=4", "x=3,y=4"), ("\\text{(A) Only I}", "A"), ("(E) I, II and III", "E"), ("5=x", "5"), ("-3 = x", "-3")],
        [("(A) or I", "A"), ("(A) Only B", "A"), ("5=2x", "5"), ("5=\\pi", "5"), ("5=x", "y=5")],
    ),
    "thousands-in-lists": (
        [("(2,000, 3)", "(2000,3)"), ("(2,050)", "2050"), ("2,000 \\text{ and } 1,050,300", "1050300, 2000"), ("\\{1,006, 7\\}", "\\{7,1006\\}"), ("٢٬٠٠٠", "2000"), ("٢٫٥", "2.5")],
        [("(2,000)", "(2,0)"), ("(2,300)", "2300"), ("2,00", "200"), ("\\{2,300\\}", "2300"), ("(1,2,050)", "(12,50)")],
    ),
    "logical-or-of-values": (
        [("4 \\lor -6", "-6, 4"), ("4 ∨ \\frac{1}{2}", "1/2, 4"), ("\\text{either 4 or 7}", "7,4"), ("\\text{4 and 7}", "4,7")],
        [("p \\lor q", "p, q"), ("4 \\lor 7", "4"), ("\\text{4 or 7}", "47"), ("\\alpha \\vee \\beta", "\\alpha, \\beta")],
    ),
    "counter": (
        [("5人", "5"), ("5", "5页"), ("5个", "5人"), ("5名", "5人"), ("5 人", "5\\text{ people}"), ("5 页", "5\\text{ pages}"), ("5 units", "5页"), ("¥45", "45元"), ("45\\text{ yen}", "¥45"), ("C\\$5", "5")],
        [("5元", "5分"), ("30 分", "30 秒"), ("30 分", "30\\text{ cm}"), ("5 人", "5 元"), ("5 页", "5\\text{ km}"), ("5页", "5本"), ("5\\text{ square units}", "5\\text{ cubic units}"), ("5平方单位", "5立方单位"), ("¥45", "€45"), ("C\\$5", "\\$5")],
    ),
    "multiplier": (
        [("3.5 \\text{ million}", "3500000"), ("\\$7 \\text{ million}", "7,000,000"), ("7 \\text{ thousand people}", "7000"), ("3万元", "30000"), ("1.2亿", "120000000")],
        [("3.5 \\text{ million}", "3.5"), ("3.5 \\text{ million}", "35 \\text{ million}"), ("7 \\text{ thousandths}", "7000"), ("7 \\text{ million}", "7 \\text{ thousand}"), ("3万", "3")],
    ),
    "number-words": (
        [("\\text{thirty-seven}", "37"), ("\\text{two hundred and six}", "206"), ("\\text{Nineteen}", "19"), ("\\text{three million}", "3000000"), ("\\text{one thousand forty}", "1040")],
        [("\\text{thirty seven}", "307"), ("\\text{seven thirty}", "37"), ("\\text{five six}", "56"), ("\\text{hundred}", "100"), ("\\text{sixty}", "16")],
    ),
    "e-notation": (
        [("3.2 x 10^4", "32000"), ("3e2", "300"), ("3e^2", "e^2 \\cdot 3")],
        [("3e2", "6e"), ("3e2", "e^2 \\cdot 3"), ("3x10^2", "310^2"), ("3.2 x 10^4", "3.2")],
    ),
    "repeating-with-dots": (
        [("0.\\dot{6}", "\\frac{2}{3}"), ("0.\\dot{2}8571\\dot{4}", "\\frac{2}{7}"), ("0.1\\bar{6}", "\\frac16"), ("1.\\overline 3", "\\frac43")],
        [("0.\\dot{6}", "0.6"), ("0.\\dot{1}\\dot{2}", "0.12"), ("\\dot{x}", "x"), ("\\bar{3}", "3")],
    ),
    "option-beside-value-gold": (
        [("(B) 14", "14"), ("\\textbf{(B) } \\frac{2}{3}", "\\frac23"), ("D. 14", "14"), ("\\text{I and III}", "III, I"), ("\\text{C only}", "C")],
        [("(B) 15", "14"), ("(B) 14", "4"), ("\\text{I and III}", "I, II"), ("A(1,2)", "(1,2)"), ("\\text{I only}", "I, II")],
    ),
    "decorated-values": (
        [("\\boldsymbol{7}", "7"), ("\\underline{3.5}", "3.5"), ("\\fbox{7}", "7"), ("7¢", "7"), ("\\frac{a}{b}=\\frac{2}{3}", "\\frac23"), ("\\begin{array}{cc}1&2\\\\3&5\\end{array}", "\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}")],
        [("\\boldsymbol{7}2", "7"), ("1\\underline{3}", "3"), ("\\frac{a}{2}=3", "3"), ("\\begin{array}{cc}x&=2\\\\y&=5\\end{array}", "\\begin{pmatrix}x&2\\\\y&5\\end{pmatrix}")],
    ),
    "absolute-value-inequalities": (
        [("|x|<4", "(-4,4)"), ("4 \\ge |t|", "[-4,4]"), ("|x|>4", "(-\\infty,-4)\\cup(4,\\infty)"), ("|x| \\le \\frac12", "-0.5 \\le x \\le 0.5")],
        [("|x|<4", "[-4,4]"), ("|x|>4", "(-4,4)"), ("|x|<-4", "(4,-4)"), ("|x|<4", "|y|<4"), ("|x|<4", "x<4")],
    ),
    "gamma-function": (
        [("120", "\\Gamma(6)"), ("\\sqrt{\\pi}", "\\Gamma\\left(\\frac{1}{2}\\right)"), ("2\\Gamma(x)", "\\Gamma(x)+\\Gamma(x)")],
        [("\\Gamma(6)", "120"), ("\\Gamma(5)", "120"), ("\\Gamma", "\\gamma"), ("\\Gamma(x)", "\\Gamma x")],
    ),
    "currencies": (
        [("£45", "45"), ("Rs. 450", "450"), ("₹450", "450\\text{ rupees}"), ("450", "\\text{Rs. }450"), ("\\pounds 12", "12"), ("¥300", "300\\text{ yen}"), ("\\text{US}\\$ 30", "\\$30"), ("5\\text{ USD}", "5\\text{ dollars}"), ("£2.5 \\text{ million}", "2500000")],
        [("£45", "€45"), ("\\$45", "£45"), ("£4.5", "45"), ("Rs. 45", "450"), ("45£2", "452"), ("-£30", "30")],
    ),
    "greek-and-compound-units": (
        [("8 µm", "8"), ("8\\ \\mu\\text{m}", "8"), ("8\\,\\mathrm{\\mu m}", "8\\ \\mu\\text{m}"), ("100 Ω", "100"), ("4.7\\text{ k}\\Omega", "4.7"), ("2\\Omega", "2 \\Omega"), ("5 \\text{ N}\\cdot\\text{m}", "5 \\text{ N m}"), ("5 \\text{ J/(kg·K)}", "5"), ("3\\ \\mathrm{m\\,s^{-2}}", "3 \\text{ m/s}^2"), ("12 \\text{ Å}", "12"), ("2\\times10^{-6}\\text{ F}", "2\\times 10^{-6}")],
        [("8 \\mu", "8"), ("2", "2\\mu g"), ("2\\mu g", "2"), ("2", "2\\Omega"), ("8 \\mu\\text{m}", "8 \\mu\\text{s}"), ("8 µm", "8\\text{ mm}"), ("4.7 k\\Omega", "4.7\\ \\mathrm{\\Omega}"), ("3 \\text{ m s}", "3 \\text{ m/s}"), ("12 \\text{ N m}", "12 \\text{ N}"), ("5\\pi", "5"), ("5 \\text{ K}", "5000"), ("5\\mathrm{C}", "5"), ("5 \\text{ A}", "5\\text{ V}")],
    ),
    "vectors-and-hats": (
        [("\\vec{a}+\\vec{b}", "\\vec b+\\vec a"), ("\\vec{a}", "\\mathbf{a}"), ("3\\hat{\\imath}-\\hat{j}", "3\\mathbf{i}-\\mathbf{j}"), ("\\vec v=(1,2)", "(1,2)"), ("y=2x+1", "\\hat{y}=2x+1"), ("\\widehat{ABC}", "\\widehat{ABC}")],
        [("\\vec a", "a"), ("\\vec{a}\\cdot\\vec{b}", "ab"), ("\\hat{p}", "p"), ("\\mathbf{x}", "\\hat{x}"), ("\\overrightarrow{AB}", "AB")],
    ),
    "minus-and-prime-or-spelling": (
        [("ad-bc", "ad - bc"), ("twenty-one", "twenty one"), ("\\text{non-negative}", "nonnegative"), ("isn't", "isnt"), ("Simpson's rule", "simpsons rule"), ("right-angled triangle", "right angled triangle"), ("L'Hôpital", "LHôpital"), ("y-intercept", "y intercept"), ("u'v-uv'", "-uv'+u'v")],
        [("ad-bc", "adbc"), ("x-y z", "xy z"), ("\\text{A-B}", "\\text{AB}"), ("AB-AC", "ABAC"), ("sinx-cosx", "sinxcosx"), ("length-width", "lengthwidth"), ("f'g", "fg"), ("f'g", "fg'"), ("A'B", "AB"), ("A'(1,2)", "A(1,2)"), ("2^{10}'-1", "2^{10}-1"), ("u'v-uv'", "uv-u'v'")],
    ),
    "rows-of-cases": (
        [(f"\\begin{{cases}}{first}\\\\{second}\\end{{cases}}", "\\begin{cases}2x-1,&x<1\\\\x^2,&x\\ge1\\end{cases}") for first, second in (("x^2,&x\\ge1", "2x-1,&x<1"), ("x^2&x\\ge1", "2x-1&x<1"), ("x^2,&\\text{if }x\\ge1", "2x-1,&\\text{if }x<1"))]
        + [("f(x)=\\left\\{\\begin{array}{ll}x^2,&x\\ge1\\\\2x-1,&x<1\\end{array}\\right.", "f(x)=\\begin{cases}2x-1,&x<1\\\\x^2,&x\\ge1\\end{cases}"), ("\\begin{cases}x=1,\\\\y=2\\end{cases}", "x=1,y=2"), ("\\begin{cases}x&=1\\\\y&=2\\end{cases}", "(1,2)")],
        [("\\begin{cases}x^2,&x\\ge1\\\\2x-1,&x<1\\end{cases}", "\\begin{cases}2x-1,&x\\ge1\\\\x^2,&x<1\\end{cases}"), ("x^2, x\\ge1, 2x-1, x<1", "\\begin{cases}2x-1,&x\\ge1\\\\x^2,&x<1\\end{cases}"), ("a_n=\\begin{cases}2,&n=1\\\\2n-1,&n\\ge2\\end{cases}", "a_n=\\begin{cases}2n-1,&n=1\\\\2,&n\\ge2\\end{cases}"), ("\\begin{cases}1,&n=2\\\\3,&n=4\\end{cases}", "\\begin{cases}2,&n=1\\\\3,&n=4\\end{cases}")],
    ),
    "groups-and-verdicts": (
        [("x=1,y=2\\text{ or }x=3,y=4", "y=4,x=3; y=2,x=1"), ("m=1 and n=2 or m=2 and n=1", "(1,2),(2,1)"), ("1,2;3,4", "4,3;2,1"), ("1,2;3,4", "1,2,3,4"), ("True, False", "true; false"), ("T, F, T", "(T,F,T)"), ("1, 2, or 3", "3, 1 or 2")],
        [("x=1,y=2\\text{ or }x=3,y=4", "x=1,y=4\\text{ or }x=3,y=2"), ("m=1,n=2 or m=2,n=1", "m=1,n=1 or m=2,n=2"), ("x=1,x=3,y=4,y=2", "x=1,y=2 or x=3,y=4"), ("1, 2 or 3, 4", "1, 4 or 3, 2"), ("True, False", "False, True"), ("T, F, T", "F, T, T"), ("对，错", "错，对")],
    ),
    "labelled-parts": (
        [("(a) 5 (b) 3", "(a) 5, (b) 3"), ("(2) 3 (1) 5", "(1)\\ 5\\quad(2)\\ 3"), ("5, 3", "(1) 5 (2) 3"), ("\\text{(i) }5\\text{ (ii) }3", "(i) 5; (ii) 3"), ("(a)x+(b)y", "xa+by")],
        [("(a) 5 (b) 3", "(a) 3 (b) 5"), ("(1) 5 (2) 3", "(1) 3 (2) 5"), ("(1) 6, (2) 2", "(1) 4, (2) 3"), ("(i) 5 (ii) 3", "(i) 3 (ii) 5"), ("3, 5", "(1) 5 (2) 3"), ("(a)x+(b)y", "(a)y+(b)x")],
    ),
    "small-option-letters": (
        [("b", "B"), ("(c)", "C"), ("\\text{option d}", "D"), ("a) 12", "A"), ("(e)", "E"), ("C", "(c)"), ("c", "(c)")],
        [("e", "E"), ("ab", "B"), ("d", "C"), ("a.5", "A"), ("(b)", "\\text{(c)}"), ("(A)\\ 5", "5A"), ("b", "3B")],
    ),
    "absolute-values-of-linear-terms": (
        [("|x-1|<2", "(-1,3)"), ("-1<x<3", "|x-1|<2"), ("|3-2x|\\ge 1", "x\\le 1 \\text{ or } x\\ge 2"), ("|2x-1|\\le 0.5", "[0.25,0.75]"), ("|x-1|<2", "|1-x|<2"), ("|z-2i|", "|2i-z|"), ("|x+iy|", "\\sqrt{x^2+y^2}")],
        [("|x-1|<2", "[-1,3]"), ("|x-1|<2", "(-2,2)"), ("|x+2|\\ge 5", "[-7,3]"), ("|x-1|<-2", "(3,-1)"), ("|x-1|<2", "|y-1|<2"), ("|z-i|<2", "|z+i|<2"), ("|x^2-1|<2", "(-1,3)")],
    ),
    "existence": (
        [("\\text{No solution}", "There is no solution."), ("\\text{There are no real solutions.}", "\\text{no real solution}"), ("\\emptyset", "\\text{No solutions exist}"), ("\\text{no integer solutions}", "\\text{There are no integer solutions.}"), ("\\text{infinitely many}", "\\text{infinitely many solutions}"), ("\\text{No}", "no")],
        [("\\text{one solution}", "There is no solution."), ("0", "\\text{no solution}"), ("\\text{infinitely many solutions}", "\\text{no solutions}"), ("\\text{no integer solutions}", "\\text{no real solutions}"), ("\\text{north}", "\\text{no solution}"), ("\\text{infinitely many}", "\\text{finitely many}"), ("\\text{yes}", "\\text{no}")],
    ),
    "plain-gold-sentence": (
        [("25", "The speed of the train is 25 km/h."), ("25\\text{ km/h}", "The speed of the train is 25 km/h."), ("1/2", "The probability is 1/2.")],
        [("24", "The speed of the train is 25 km/h."), ("25", "The speed of the train is not 25 km/h."), ("25", "The speed is 25 if the wind is calm"), ("25", "The train passes at 25 km/h.")],
    ),
    "unions-of-sets": (
        [("\\{1,2\\}\\cup\\{5\\}", "\\{1,2,5\\}"), ("{1, 2} ∪ {5}", "\\{5,1,2\\}"), ("3,-1", "\\{x=-1,x=3\\}"), ("x\\in\\{1,2\\}", "\\{2,1\\}")],
        [("\\{1\\}\\cap\\{1,2\\}", "\\{1,2\\}"), ("\\{1,2\\}\\cup\\{5\\}", "\\{1,2\\}"), ("\\{\\{1\\},2\\}", "\\{1,2\\}")],
    ),
    "time-or-fraction": (
        [("3:4", "\\frac{3}{4}"), ("16:25", "\\frac{16}{25}")],
        [("3:45", "\\frac{3}{45}"), ("10:30", "1/3"), ("16/25", "16:25"), ("3:45", "345")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), [pair for equal, _ in KINDS.values() for pair in equal])
def test_equal(answer: str, gold: str) -> None:
    assert compare(answer, gold) == EQUAL


@pytest.mark.parametrize(("answer", "gold"), [pair for _, different in KINDS.values() for pair in different])
def test_different(answer: str, gold: str) -> None:
    assert compare(answer, gold) == DIFFERENT


WORDS = [
    " \\text{ million}",
    " \\text{ times}",
    "\\text{ km north}",
    "\\text{万}",
    "\\text{ for odd } n",
    "\\text{ only}",
]
number = st.integers(1, 9999).filter(lambda n: n % 10)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(number, st.integers(1, 3), st.sampled_from(["", *WORDS]))
def test_a_damaged_number_is_never_equal(digits: int, places: int, words: str) -> None:
    decimal = f"{digits / 10**places:.{places}f}"
    for damaged in (str(digits), f"{digits / 10 ** (places + 1):.{places + 1}f}", f"-{decimal}", f"({decimal})^2"):
        if float(damaged.strip("()^2") or 0) != float(decimal) or "^" in damaged:
            assert compare(damaged + words, decimal + words) == DIFFERENT or decimal == "1.0"
    fraction, joined = f"{digits}/7", f"{digits}7"
    assert compare(joined + words, fraction + words) == DIFFERENT
    assert compare(fraction + words, joined + words) == DIFFERENT


FORMS = [
    "{}.5", ".{}", "{}/77", "\\frac{{{}}}{{977}}", "{}\\%", "\\${}",
    "5\\frac{{{}}}{{99991}}", "{}\\times 10^{{7}}", "2^{{{}}}x", "\\sqrt[3]{{{}}}",
    "x+{}", "{}\\pi", "({},2)", "\\{{{},1\\}}", "[{},\\infty)",
    "x > {}", "x = {}", "{}^\\circ", "{}\\text{{ cm}}", "\\text{{about }}{}",
    "\\begin{{pmatrix}}{}\\\\2\\end{{pmatrix}}", "{} \\text{{ million}}", "a_{{{}}}",
]  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(2, 999_999),
    st.integers(0, 5),
    st.sampled_from("0123456789"),
    st.sampled_from(["changed", "inserted", "removed"]),
    st.sampled_from(FORMS),
)
def test_a_number_with_a_wrong_digit_is_never_equal(value: int, place: int, digit: str, damage: str, form: str) -> None:
    text = str(value)
    place %= len(text)
    wrong = text[:place] + digit * (damage != "removed") + text[place + (damage != "inserted") :]
    different = wrong not in ("", "0") and float(f".{wrong}") != float(f".{text}") and int(wrong) != value
    if form == "{}.5":  # a decimal gold allows a relative error of 1e-4
        different = different and abs(int(wrong) - value) > value / 5000
    elif form == ".{}":
        different = different and abs(float(f".{wrong}") / float(f".{text}") - 1) > 2e-4
    if different:
        assert compare(form.format(wrong), form.format(text)) == DIFFERENT


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(1_000, 99_999_999),
    st.integers(1, 7),
    st.sampled_from([",", ".", "/", " / ", "^", ";", ":", "-", "\\cdot "]),
)
def test_a_number_split_at_a_wrong_place_is_never_equal(value: int, place: int, sign: str) -> None:
    """A comma is a thousands separator only before three digits."""
    text, grouped = str(value), f"{value:,}"
    place = min(place, len(text) - 1)
    split = text[:place] + sign + text[place:]
    if split != grouped and set(text[place:]) != {"0"}:
        assert compare(split, text) == DIFFERENT and compare(text, split) == DIFFERENT
        assert compare(split, grouped) == DIFFERENT or sign == ";"  # both may be lists
    assert compare(grouped, text) == EQUAL == compare(text, grouped)


VALUES = st.sampled_from(
    [
        "5",
        "2.5",
        "-\\frac{3}{4}",
        "2\\sqrt{3}",
        "x^2-3x+1",
        "(1,-2)",
        "[0,\\infty)",
        "\\{1,2\\}",
        "\\frac{\\pi}{6}",
        "12\\%",
        "2\\ln 3",
        "\\alpha+\\beta",
        "90^\\circ",
        "n^{2}+1",
        "x\\le -2 \\text{ or } x>3",
        "\\begin{pmatrix}1&-2\\\\0&\\frac{1}{2}\\end{pmatrix}",
        "y = 2x - 1",
        "1.5 \\times 10^{6}",
        "3+2i",
        "\\frac{x^2-1}{2}",
        "5:12",
        "0.\\overline{36}",
    ]
)
_SIGNED = st.integers(-10_000, 10_000)
NUMBERS = st.one_of(
    _SIGNED.map(str),
    _SIGNED.map(lambda n: f"{n / 100:.2f}"),
    st.tuples(_SIGNED, st.integers(2, 99)).map(lambda pair: f"\\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.integers(2, 999).map(lambda n: f"{n}\\sqrt{{{n + 1}}}"),
)
VALUES |= NUMBERS | st.tuples(
    NUMBERS, NUMBERS, st.sampled_from(["({}, {})", "[{}, {}]", "\\{{{}, {}\\}}", "{}, {}"])
).map(lambda parts: parts[2].format(*parts[:2]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    VALUES,
    st.lists(
        st.sampled_from(sorted(NOTATIONS.keys() - {"unit in text", "the answer is"})),
        min_size=1,
        max_size=2,
        unique=True,
    ),
)
def test_a_rewritten_value_is_always_equal(gold: str, kinds: list[str]) -> None:
    answer = gold
    for kind in sorted(kinds, key=lambda kind: kind == "doubled backslashes"):  # of the whole text
        answer = NOTATIONS[kind](answer) or answer
    assert compare(answer, gold) == EQUAL
    assert compare(gold, answer) == EQUAL


TOKENS = ["\\circ", "^", "_", "{", "}", "(", ")", "[", "]", "\\frac", "\\sqrt", "\\sin", "!", "|", "\\text{", "1", "1e999", "10^{10^{10}}", "x", "+", "-", "/", "=", "<", ",", ":", "'", "%", "\\$", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "\\pm", "\\cup", "\\{", "C", "e", "\\binom", "\\lfloor", "①", "元", "²", "९", "\\approx", " for all ", "\\overline"]  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(TOKENS), max_size=12).map("".join),
    st.lists(st.sampled_from(TOKENS), max_size=8).map("".join),
)
def test_no_text_makes_the_comparison_raise_or_fail(answer: str, gold: str) -> None:
    for rule in ("math_verify", "exact"):
        assert compare(answer, gold, rule=rule) != FAILED


def test_deep_and_huge_expressions_are_different() -> None:
    for text in (
        "\\sqrt" * 300 + "2",
        "|" * 350,
        "2" + "^2" * 190,
        "-" * 390 + "5x",
        "\\frac" * 190,
        "1e999",
        "9" * 1900,
    ):
        assert compare(text, "x+5") == DIFFERENT
        assert judge_answer("5", text).status == DIFFERENT


def test_a_comparison_that_raises_is_different_and_says_whether_the_gold_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from simplerl.rewards import equality

    monkeypatch.setattr(equality, "normalize", lambda text: text[99])
    assert judge_answer("unread 1", "unread 2").status == DIFFERENT
    assert judge_answer("unread 1", "unread 2").gold_unread
    assert not is_readable("unread 2")
    assert compare(" ", "5") == NO_ANSWER


DEGENERATE = [" ", "\n", "{", "}", "{}", "\\frac", "\\frac{1}", "=", "1=", ",", "1,", "(", "[", "\\text{", "元", "x ", "\\\\", "$", "x^", "|", "1+", "\\sqrt", "%", "<", "\\cup", "①", "1:", "&", "\\$", "½", "for all ", "or ", "\\boxed{"]  # fmt: skip


@pytest.mark.parametrize("piece", DEGENERATE)
def test_degenerate_texts_are_compared_in_bounded_time(piece: str) -> None:
    """32 kB are refused at once; the longest text that is compared stays within seconds on any machine."""
    warm_up()
    for size, budget in ((32_000, 0.1), (1_990, 2.0)):
        text = (piece * size)[:size]
        for answer, gold in ((f"5{text}5", "5"), ("5", f"5{text}5"), (f"5{text}1", f"5{text}2")):
            start = time.process_time()
            assert compare(answer, gold) != EQUAL or size < 2000
            assert time.process_time() - start < budget


def test_notations_and_damages_of_gold_answers() -> None:
    golds = ["\\frac{1}{2}", "2.5", "(0,3]", "[1,2)", "x^2+\\pi", "3/4", "\\sqrt{3}", "-7", "\\alpha"]
    verdicts = list(judge([("", gold) for gold in [*golds, "\\left(1,2\\right)", "(2,5)", "1 | 2"]]))
    assert [one for one in verdicts if one.wrong] == []
    assert {one.kind for one in verdicts} == {*NOTATIONS, *DAMAGES}
    assert describe_sources([replace(one, wrong=True) for one in verdicts])[1].split()[1] >= "6"


@pytest.mark.slow
def test_real_gold_answers_in_other_notations_and_damaged(shared: Path) -> None:
    golds = list(read_golds(shared / "data"))
    verdicts = list(judge(golds[::5]))
    assert len(golds) > 13_000 and [one for one in verdicts if one.wrong] == []
    assert min(Counter(one.gold for one in verdicts if one.kind in NOTATIONS).values()) >= 6


@pytest.mark.slow
def test_shared_cases_are_graded_as_labelled(shared: Path) -> None:
    rows = map(json.loads, (shared / "cases/grading_strict.jsonl").read_text().splitlines())
    graded = [(row, strict(row["response"], Problem("", "", row["answer"]))) for row in rows]
    assert {score.status for _, score in graded} <= {EQUAL, DIFFERENT, NO_ANSWER}
    wrong = [row["id"] for row, score in graded if score.correct != row["expected"]]
    assert [one for one in wrong if not one.startswith("stop-marks")] == []  # those are extraction


def test_the_audit_names_decorated_golds(tmp_path: Path) -> None:
    file = tmp_path / "golds.jsonl"
    golds = ["5", "The area is $5$.", "B. 12", "5 cm", "x = 5 is not allowed because 5 < 6 holds here", "5 (wrong)"]
    file.write_text("\n".join(json.dumps({"id": f"r{i}", "answer": gold}) for i, gold in enumerate(golds)))
    lines = audit.report_golds(file)
    assert lines[-1] == "6 gold answers checked."
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "Gold answers with a sentence",
        "Gold answers with a remark in brackets",
    ]
    assert "2, of which 1 are not graded as equal to their plain value (r4: 'x = 5 is not" in lines[0]
    assert "(r5: '5 (wrong)', value '5')" in lines[1]
    file.write_text('{"question": "?"}')
    with pytest.raises(ConfigError, match=r'golds\.jsonl, line 1: it has no "answer" or "gold"'):
        audit.report_golds(file)


WORDED = (
    "7 hours and 30 minutes", "Tom has 5 marbles", "Yes, 4 ways", "about 250", "25% off", r"18 $\text{ninths}$",
    "3 to 1 odds", "n = 6, by Fermat", "Since 2x=8, x=4", "约为3.5", "Maximum 10", "17 [mod 20]", "答案：16",
)  # fmt: skip
PLAIN = (
    "5", "x=3", "3 or 4", r"x = 1 \text{ or } x = 2", r"17 \pmod{20}", "3xyz+2", "ABC = 5", r"2\sin 3x", r"\text{east}",
    "Yes", r"10:30 \text{ p.m.}", r"\text{October 30}", "1,000", "2 log 3", r"\lambda_{\text{red}}/\sqrt{2}", r"5(\sqrt{3}-1)",
    r"\bar{x}=1/2", r"\begin{array}{rr}1 & 2\end{array}",
)  # fmt: skip


@pytest.mark.parametrize("gold", WORDED)
def test_the_audit_names_a_gold_with_words_beside_its_value(gold: str) -> None:
    (line,) = decorations.describe_golds([Problem("r", "", gold)])
    assert f"(r: {gold!r}" in line and "1, of which 1 are not graded as equal" in line


def test_the_audit_does_not_name_plain_golds_and_units() -> None:
    golds = [*PLAIN, "5 cm", "12 square feet", "60 miles per hour", "50%", r"\$5", "5 元"]
    found = decorations.audit_golds(Problem(gold, "", gold) for gold in golds)
    assert [one.answer for kind, rows in found.items() if kind != decorations.UNIT for one, _ in rows] == []
    assert all(decoration.met for rows in found.values() for _, decoration in rows)
