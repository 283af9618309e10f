r"""Translates Unicode mathematics and twice-escaped LaTeX into plain LaTeX: x⁻² into x^{-2}, ∛2 into \sqrt[3]{2}.

Letters of other scripts that are words, not mathematics (元, миллион), are left as they are.
"""

from __future__ import annotations

import re
import unicodedata

TEXT = r"\\(?:text|mbox|textbf|textit|textrm|textnormal|textsf|texttt|mathrm|mathbf|mathit|mathsf|rm|hbox|emph|textup)"
TEXT_GROUP = re.compile(TEXT + r"\s*\{([^{}]*)\}")

CURRENCY_SIGNS = "£€₹₽₩₪₺¥￥"

_CHARACTERS = {
    **dict.fromkeys("−–—‐‑﹣", "-"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\u2061\u2062\ufeff", ""),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u205f\u3000", " "),
    **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full-width ASCII
    **{d: str(i) for i, d in enumerate("٠١٢٣٤٥٦٧٨٩")},
    **dict.fromkeys("⟨〈", r"\langle "), **dict.fromkeys("⟩〉", r"\rangle "),
    "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "⁄": "/", "∕": "/", "∶": ":", "∣": "|", "∞": r"\infty ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≒": r"\approx ", "≅": r"\cong ",
    "٫": ".", "٬": ",", "¢": " cents", "Å": " angstrom",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "℃": r"^\circ C", "℉": r"^\circ F", "∘": r"\circ ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "’": "'", "′": "'", "″": "''", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "…": r"\ldots ", "⋯": r"\ldots ", "、": ",", "。": ".", "ℏ": r"\hbar ", "ℓ": r"\ell ",
    "∠": r"\angle ", "≡": r"\equiv ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "⊊": r"\subsetneq ", "⊃": r"\supset ", "⊇": r"\supseteq ", "→": r"\to ",
    "⇒": r"\Rightarrow ", "⇔": r"\iff ", "↔": r"\leftrightarrow ", "∀": r"\forall ", "∃": r"\exists ", "¬": r"\neg ",
    "∧": r"\wedge ", "∨": r"\vee ", "∂": r"\partial ", "∇": r"\nabla ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ",
    "∥": r"\parallel ", "⊥": r"\perp ", "△": r"\triangle ", "∝": r"\propto ", "∼": r"\sim ", "∖": r"\setminus ",
    "µ": r"\mu ", "∆": r"\Delta ", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ", "ϱ": r"\rho ", "ς": r"\sigma ",
}  # fmt: skip
_CHARACTERS |= {letter: rf"\mathbb{{{unicodedata.normalize('NFKC', letter)}}}" for letter in "ℝℤℕℚℂℙ"}
_CHARACTERS |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo", strict=True))  # Greek letters without a command
for _code in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA)):
    _letter = chr(_code)
    _name = unicodedata.name(_letter, "").rsplit(" ", 1)[-1].lower().replace("lamda", "lambda")
    if _name and _letter not in _CHARACTERS:
        _CHARACTERS[_letter] = f"\\{_name.capitalize() if _code < 0x3B1 else _name} "
for _fraction in "⅓⅔⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒":
    _above, _below = unicodedata.normalize("NFKC", _fraction).split("⁄")
    _CHARACTERS[_fraction] = rf"\frac{{{_above}}}{{{_below}}}"
_CHARACTERS |= {chr(first + i): f"\\circled {i + 1} " for first in (0x2460, 0x2474) for i in range(20)}  # ①, ⑴
_TRANSLATE = str.maketrans(_CHARACTERS)

_SUPERSCRIPTS = dict(
    zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ", "0123456789+-=()niabcdefghjklmoprstuvwxyzT", strict=True)
)
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+-=()aehijklmnoprstuvx", strict=True))
_SCRIPTS = re.compile(f"([{''.join(_SUPERSCRIPTS)}]+)|([{''.join(_SUBSCRIPTS)}]+)")
_LETTERLIKE = re.compile("[\U0001d400-\U0001d7ff\u2100-\u214f]")  # 𝑥, 𝟓, ℎ
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_ROOT = re.compile(r"([√∛∜])\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|(?=[({])|)")
_MINUTES = re.compile(r"(\d)\s*度\s*(\d+)\s*分(?!钟)")  # 30度15分
# Backslashes are doubled if all are, and a command or an escaped character follows one of them.
_BACKSLASHES = re.compile(r"\\+")
_AFTER_DOUBLED = re.compile(r"(?<!\\)\\\\(?=[A-Za-z]{2,}|[{}%$()\[\],;!|])")
_KNOWN_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|text|pi|left|right|cdot|times|boxed|begin|end|infty|circ|cup|le|ge|leq|geq)(?![a-z]))"
)


def to_latex(text: str) -> str:
    """Return the text with Unicode mathematics written as LaTeX commands and with every command escaped once."""
    text = _escape_once(text)
    if text.isascii():
        return text
    text = _SCRIPTS.sub(_script, text)
    text = _LETTERLIKE.sub(lambda found: _CHARACTERS.get(found[0]) or unicodedata.normalize("NFKC", found[0]), text)
    text = _ROOT.sub(lambda found: _ROOTS[found[1]] + (f"{{{found[2]}}}" if found[2] else " "), text)
    return _MINUTES.sub(r"\1^\\circ \2'", text).translate(_TRANSLATE)


def _script(found: re.Match[str]) -> str:
    above, below = found.groups()
    if above:
        return f"^{{{''.join(_SUPERSCRIPTS[c] for c in above)}}}"
    return f"_{{{''.join(_SUBSCRIPTS[c] for c in below)}}}"


def _escape_once(text: str) -> str:
    runs = _BACKSLASHES.findall(text)
    if runs and all(len(run) % 2 == 0 for run in runs) and _AFTER_DOUBLED.search(text):
        if "\\begin" not in text:
            return text.replace("\\\\", "\\")
        return _AFTER_DOUBLED.sub(r"\\", text).replace("\\\\\\\\", "\\\\")
    return text if "\\begin" in text else _KNOWN_DOUBLED.sub(r"\\", text)
