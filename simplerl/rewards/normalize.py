"""Rewrites an answer into one plain notation, so that equal answers of models and answer keys become equal strings.

Only strings are rewritten: nothing is evaluated, and no letter is dropped. Units are split off in
`simplerl.rewards.units`.
"""

from __future__ import annotations

import re

from simplerl.rewards.characters import CURRENCY_SIGNS, TEXT_GROUP, to_latex
from simplerl.rewards.characters import TEXT as _TEXT
from simplerl.rewards.lists import are_lists, with_rows_of_cases
from simplerl.rewards.matrices import as_pmatrix

_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "cupdot": "cup",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "colon": ":", "lvert": "|", "rvert": "|", "vert": "|",
    "mid": "|",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": r"\langle", "varnothing": "emptyset",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "degree": "^\\circ", "degrees": "^\\circ",
    "arcsinh": "arsinh", "lg": "log_{10}", "operatorname": "mathrm", "textdollar": "\\$", "simeq": "approx",
    "bmatrix": "pmatrix", "epsilon": "epsilon", "varepsilon": "epsilon", "varphi": "phi", "iff": "iff",
    "backslash": "setminus", "bigcup": "cup", "bigcap": "cap", "textcircled": "circled", "rightarrow": "to",
    "intercal": "top", "land": "wedge", "lor": "vee", "thickapprox": "approx", "doteq": "approx",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)(?:\*(?=\{))?")
_DROPPED = {
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "Biggl", "Biggr",
    "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "thinspace", "negthinspace", "hfill", "hline",
    "nonumber", "notag", "middle", "mathstrut", "strut",
}  # fmt: skip
_SPACES = {"quad", "qquad", "enspace", "enskip", "space", "medspace", "thickspace"}

_FONT = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathcal|mathsf|mathfrak|mathscr|pmb|underline|ensuremath)\s*\{\s*([A-Za-z]|\\[a-z]+)\s*\}"
)
_ARROW = re.compile(
    r"\\(?:vec|overrightarrow|(wide)?hat)\s*(?:\{\s*([A-Za-z]|\\[a-z]+)\s*\}|([A-Za-z]|\\[ij]math)(?![A-Za-z]))"
)
_FONT_OF_NUMBER = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|pmb|vec|underline|ensuremath)\s*\{(-?\d[\d.,/]*)\}"
)
_BOLD_LETTER = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb|bf)(?![A-Za-z])")
_OVERLINED = re.compile(
    r"\\(?:overline|bar|tilde|widetilde)\s*(?:\{\s*([A-Za-z]|\\[a-z]+)\s*\}|([A-Za-z])(?![A-Za-z]))"
)
_REPEATING = re.compile(  # 0.\\dot{1}4\\dot{2}, 0.\\bar{3}
    r"(\.\d*)(\\dot\s*(?:\{\d\}|\d)(?:\d*\\dot\s*(?:\{\d\}|\d))?|\\(?:bar|overline)\s*(?:\{\d+\}|\d(?!\d)))"
)
_DOTTED = re.compile(r"\\(d?)dot\s*\{\s*([A-Za-z]|\\[a-z]+)\s*\}")
_OR, _AND, _WITH = "或者?|或|または|или", "且|并且", "以及|及|和|与|および"
_JOINING = f"{_OR}|{_AND}|{_WITH}"  # in other scripts
_BETWEEN_ITEMS = re.compile(
    r"(?:,\s*)?(?:" + _TEXT + rf"\s*\{{[\s~,]*(and|or|{_JOINING})[\s~]*\}}|(?<=[\s\d)}}\]$,])\b(and|or)\b"
    rf"|(?<=[\s\w)}}\]$,])({_JOINING})(?=[\s\dA-Za-z\\({{\[$+-])|\\(vee|wedge)(?![A-Za-z]))"
    r"|(" + _TEXT + r"\s*\{[^{}]*\})",  # any other \\text{...} is left unchanged
    re.I,
)
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-z])|!=")
_RELATION = re.compile(rf"=|\\in(?![a-z])|{_INEQUALITY.pattern}")
_DISPLAY = re.compile(r"\\\[(.*)\\\]|\\begin\{(equation|math|displaymath)(\*?)\}(.*)\\end\{\2\3\}", re.S)
_DELIMITERS = re.compile(r"(\\\\)|(?<!\\)\$|\\[()]|\\\[(?!\d)|\\\]|__(?=\w)")
_ROW_SPACING = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]")
_SMALL_SPACES = re.compile(r"(\\\\)|\\[!,;:>]|\\ |(?<!\\)~")
_OUTER_SPACES = re.compile(r"^(?:\\[,;:! ]|\s)+|(?:(?<!\\)\\[,;:! ]|\s)+$")
_BOLD = re.compile(r"^\*\*(.*?)(?:\*\*)?$", re.S)
_DOTS = re.compile(r"\.\s?\.\s?\.")
_GROUPED = re.compile(r"(?<=\d)(?:,\s*\\!|\{,\}|\\,)\s*(?=\d{3}(?!\d))")
_THOUSANDS_WITH_ZERO = re.compile(  # no item of a list begins with 0, so (1,000, 2) has two items
    r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})*,0\d\d(?:,\d{3})*(?!\d)"
)
_THOUSANDS = re.compile(r"(?<![\d.,])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?!\d| \d)")
_SPACE_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=[\d.])")
_FUNCTIONS = re.compile(
    r"(?<![\\A-Za-z])(?:np\.|math\.)?(sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|pi|infty)"
    r"(?![A-Za-z])"
)
_ANSWER_IS = r"(?:the\s+)?(?:final\s+)?(?:answer|solutions?|result)(?:\s+set)?\s*(?:is|are)?\s*:?"
_LEADING = re.compile(
    rf"^(?:{_TEXT}\s*\{{\s*{_ANSWER_IS}\s*\}}|{_ANSWER_IS}|either\s|(?:=\s*)+"
    r"|\\(?:therefore|implies|Rightarrow|approx)(?![A-Za-z])|\\sim(?=\s*[\d.-])|:)\s*",
    re.I,
)
_TRAILING = re.compile(r"(?<![\s.,;:])(?:\s|[.,;:](?!\d)|\\\\|(?:solution|answer)\s*:$)+$", re.I)
_ORDINAL = re.compile(
    r"(?<=\d)\s*\^?\s*\{?\s*(?:" + _TEXT + r"\s*\{\s*(?:st|nd|rd|th)\s*\}|(?<=\d)(?:st|nd|rd|th)\b)\s*\}?"
    r"|(?<=\d)\s*\^\s*\{\s*(?:st|nd|rd|th)\s*\}"
)
_DEGREE = re.compile(  # 20\\circ C, 20^oC, 20\\text{\\circ}; after a letter \\circ is a composition of functions
    r"(?<=[\d)}])\s*(?:\^\s*\{?\s*o\s*\}?(?=\s*(?:[CF]\b|$))|" + _TEXT + r"\s*\{\s*\\circ\s*\}"
    r"|(?<=\d)\s*\\circ(?![a-z])|(?<=[)}])\s*\\circ(?=\s*(?:$|\d|(?:" + _TEXT + r"\s*\{\s*)?[CFK]\b)))"
)
_DIFFERENCE = re.compile(r"(\\mathbb\s*\{?\s*[RZNQC]\s*\}?)\s*\\\{([^{}\\]*)(?:\\\}|\}?$)")  # ℝ\{0}
_BARE_SET = re.compile(r"(^|\\c[ua]p(?![a-z]))\s*\{([^{}\\]*)\}(?=\s*(?:\\c[ua]p(?![a-z])|$))")  # {1} \\cup {2}
_DOMAIN = r"(?:\\in\s*)?\\mathbb\s*\{?\s*[RZNQC]\s*\}?(?:\s*[\^_]\s*\{?\s*[+*]\s*\}?)?"
_EVERY = re.compile(  # a final clause such as "for all real x" or "\\forall x \\in \\mathbb{R}", without a condition
    r"\s*[,;]?\s*\(?\s*(?:\\forall\s*|\b(?:and\s+)?(?:for|where|with)\s+(?:all|any|every|each)\b)"
    r"(?:\s|\b(?:real|integer|positive|nonnegative|non-negative|natural|rational|complex)s?\b|\b(?:values?|numbers?|of)\b"
    r"|[a-zA-Z](?:_\w)?(?![A-Za-z])|,(?=\s*[a-z](?![A-Za-z]))|" + _DOMAIN + r")*\)?\.?(?=\s*,|$)"
)
_REAL_ARGUMENT = re.compile(  # f(x) = x+1, x \\in \\mathbb{R}
    r"(?<=.)(?:[,;]|\s(?:where|for|with)\b)?\s*\(?\s*(?:where|for|with)?\s*([a-z])\s*\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*\)?$"
)
_NAMED_BOX = re.compile(r"=\s*\\boxed\s*\{")  # x = \boxed{5} within a box
_SETUP = re.compile(r"\\begin\{(array|aligned|align\*?|cases|split|gathered)\}(?:\{[^{}]*\})?")


def _rename(found: re.Match[str]) -> str:
    name = found.group(1)
    if name in _DROPPED:
        return ""
    if name in _SPACES:
        return " "
    if name in _RENAMED:
        new = _RENAMED[name]
        return f"\\{new}" if new[0].isalpha() else new
    return f"\\{name}"


# Rewrites in order, each with a string without which its pattern cannot match; searching for that string is faster.
_Rewrite = tuple[str, re.Pattern[str], str]
_EARLY: tuple[_Rewrite, ...] = (  # before commands are renamed
    (":", re.compile(r"\{\s*:\s*\}"), ":"),
    ("\\\\", _ROW_SPACING, r"\\\\"),
    ("10", re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)"), "*"),
    ("\\pounds", re.compile(r"\\pounds(?![a-zA-Z])"), "£"),
    *((sign, re.compile(re.escape(sign)), r" \g<0> ") for sign in ("\\$", *CURRENCY_SIGNS)),
    ("**", _BOLD, r"\1"),
    ("$", _DELIMITERS, r"\1 "),
    ("\\", _DELIMITERS, r"\1 "),
    ("__", _DELIMITERS, r"\1 "),
    ("\\", _SMALL_SPACES, r"\1 "),
    ("~", _SMALL_SPACES, r"\1 "),
)
_MIDDLE: tuple[_Rewrite, ...] = (  # after commands are renamed
    ("\\circ", re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ "),
    ("\\circ", _DEGREE, r"^\\circ "),
    ("o", _DEGREE, r"^\\circ "),
    ("\\mathbb", _DIFFERENCE, r"\1 \\setminus \\{\2\\}"),
    ("\\setminus", re.compile(r"(\\setminus\s*)\{([^{}]*)\}"), r"\1\\{\2\\}"),
    ("\\c", _BARE_SET, r"\1 \\{\2\\}"),
)
_LATE: tuple[_Rewrite, ...] = (  # after "and" and "or" are replaced
    ("inf", re.compile(r"(?<![A-Za-z\\])(?:\+\s*)?(?:infinity|inf)(?![A-Za-z])"), r"\\infty "),
    ("m", re.compile(r"\b([ap])\.\s?m\b\.?"), r"\1m"),
    ("\\{", re.compile(r"\\\{\s*\\\}"), r"\\emptyset "),
    ("\\choose", re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
)
_LAST: tuple[_Rewrite, ...] = (
    ("\\mathbb", re.compile(r"\\mathbb\s+([A-Z])"), r"\\mathbb{\1}"),
    ("\\overline", re.compile(r"\\overline\s*\{([A-Z]{2})\}"), r" \1"),
    ("<=", re.compile("<="), r"\\le "),
    (">=", re.compile(">="), r"\\ge "),
    ("!=", re.compile(r"(?<!\d)!="), r"\\ne "),  # 3!=6 has a factorial
    ("\\infty", re.compile(r"\+\s*\\infty"), r"\\infty"),
    (".", re.compile(r"(?<![.\d])(\d+)\.(?=[/\s)}*]|$)"), r"\1"),  # 3./2
    ("**", re.compile(r"\*\*(?=\s*[-(\d])"), "^"),
)


def _rewritten(text: str, rewrites: tuple[_Rewrite, ...]) -> str:
    for needed, pattern, new in rewrites:
        if needed in text:
            text = pattern.sub(new, text)
    return text


def normalize(text: str) -> str:
    """Return the answer without display commands, math delimiters, thousands separators and outer punctuation.

    "and" and "or" between items become commas. Single spaces are kept, because words need them.
    """
    text = " ".join(to_latex(text).split())
    text = _DOTS.sub(r"\\ldots ", text) if "." in text else text
    for _ in range(4):
        text = _OUTER_SPACES.sub("", text) if "\\" in text else text
        before, text = text, _without_delimiters(_unwrap_boxes(text))
        if text == before:
            break
    text = _GROUPED.sub("", text) if "," in text else text
    text = _THOUSANDS_WITH_ZERO.sub(lambda found: found[0].replace(",", ""), text) if ",0" in text else text
    text = _rewritten(text, _EARLY).replace(r"\%", "%").replace(r"\&", " \\text{and} ")
    text = " ".join((_COMMAND.sub(_rename, text) if "\\" in text else text).split())
    text = as_pmatrix(_rewritten(text, _MIDDLE))
    if "\\begin{pmatrix}" not in text and ("\\" in text or "&" in text):
        text = _SETUP.sub(" ", with_rows_of_cases(text)).replace("\\end{", "\\end {").replace("&", " ")
        text = re.sub(r"[,;]?\s*\\\\", ",", text)
        text = " ".join(re.sub(r"\\end \{[a-z*]+\}", " ", text).split())
    text = _rewrite_accents(text) if "\\" in text else text
    text = _ORDINAL.sub("", text) if any(ending in text for ending in ("st", "nd", "rd", "th")) else text
    if "\\" in text and (whole := TEXT_GROUP.fullmatch(text)) is not None and re.search(r"\d", text):
        text = whole[1]  # \\text{2 or 3}
    text = _FUNCTIONS.sub(r"\\\1 ", _with_connectives(text))
    text = _without_clause(_rewritten(text, _LATE))
    return re.sub(r"\s+", " ", _strip_outer(_rewritten(text, _LAST)))


def _rewrite_accents(text: str) -> str:
    r"""Rewrite accents, fonts and primes: repeating decimals get \overline; \bar{x}, \hat{x} and \vec{x} become
    x_{bar}, x_{hat} and x_{vec}, which differ from x; dots and primes become '; fonts such as \mathbf are removed."""
    if "\\dot" in text or "\\bar" in text or "\\overline" in text:
        text = _REPEATING.sub(lambda found: f"{found[1]}\\overline{{{re.sub('[^0-9]', '', found[2])}}}", text)
    text = _OVERLINED.sub(
        lambda bar: f" {bar[1] or bar[2]}_{{bar}}", text
    )  # a bar denotes another symbol: a mean, a complement
    text = _ARROW.sub(_marked_symbol, text)
    text = _FONT.sub(r" \1", _DOTTED.sub(lambda d: f" {d[2]}" + "'" * (1 + len(d[1])), text))
    text = _FONT_OF_NUMBER.sub(r"\1", text)
    return re.sub(
        r"\^\s*(?:\{\s*((?:\\prime\s*)+)\}|\\prime)", lambda p: "'" * max(1, (p[1] or "").count("prime")), text
    )


def _marked_symbol(arrow: re.Match[str]) -> str:
    r"""Write \vec{a} as a_{vec} and \hat{a} as a_{hat}, but the unit vectors i, j and k without a mark."""
    letter = (arrow[2] or arrow[3]).replace("\\imath", "i").replace("\\jmath", "j")
    return f" {letter}" + ("" if letter in "ijk" else "_{hat}" if "hat" in arrow[0] else "_{vec}")


def without_arrows(text: str, other: str) -> str:
    """Return a normalised text without the arrows of vectors if `other`, not normalised, writes vectors in bold."""
    return text.replace("_{vec}", "") if "_{vec}" in text and _BOLD_LETTER.search(other) else text


def _with_connectives(text: str) -> str:
    r"""Write "and" and "or" between items as commas, but \\wedge and \\vee between relations that are not equations."""
    pieces: list[str] = []
    signs: list[str] = []
    logical: list[bool] = []  # written as \\wedge or \\vee
    end = 0
    for found in _BETWEEN_ITEMS.finditer(text):
        if found[5]:
            continue
        word = (found[1] or found[2] or found[3] or found[4]).lower()
        signs.append("\\vee" if re.fullmatch(f"or|vee|{_OR}", word) else "" if re.fullmatch(_WITH, word) else "\\wedge")
        logical.append(found[4] is not None)
        pieces.append(text[end : found.start()])
        end = found.end()
    pieces.append(text[end:])
    relations = [bool(_RELATION.search(piece)) for piece in pieces]
    if not re.search(rf"{_INEQUALITY.pattern}|\\in(?![a-z])", text):
        relations = [False] * len(pieces)
    separator = ";" if "," in text and set(signs) == {"\\vee"} and are_lists(pieces) else ","  # 1, 2 or 3, 4
    joined = pieces[0]
    for i, (sign, piece) in enumerate(zip(signs, pieces[1:], strict=True)):
        are_values = not any(map(_LETTER.search, pieces[i : i + 2]))  # 3 \\vee 5, unlike p \\vee q
        is_kept = (logical[i] and not are_values) or (sign and relations[i] and relations[i + 1])
        joined += f" {sign if is_kept else separator} {piece}"
    return " ".join(joined.split())


_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]|\\(?!(?:frac|sqrt|pi)(?![a-z]))[a-zA-Z]|[^\W\d_a-zA-Z]")
_CONDITION = re.compile(r"[^|:=<>]*[|:][^|:]*(?:[=<>]|\\(?:le|ge|ne|in)(?![a-z]))[^|]*$")  # x|x>3


def _without_clause(text: str) -> str:
    """Remove a final clause "for all real x", which adds no condition, and "x in R" after a function of x."""
    if "for" not in text and "\\in" not in text and "where" not in text and "with" not in text:
        return text
    plain = TEXT_GROUP.sub(r" \1 ", text)
    if (shorter := _EVERY.sub("", plain).strip()) and shorter != plain.strip():
        return shorter
    if (clause := _REAL_ARGUMENT.search(plain)) and re.match(rf"\s*[A-Za-z]\s*\(\s*{clause[1]}\s*\)\s*=", plain):
        return plain[: clause.start()].strip()
    return text


def _strip_outer(text: str) -> str:
    r"""Remove leading words such as "the answer is", trailing punctuation, and \text{} or braces around the whole text;
    braces around a list or a condition become those of a set: {1, 2} becomes \{1, 2\}."""
    while True:
        before = text
        text = _TRAILING.sub("", _LEADING.sub("", text.strip()))
        text = text.strip(", ")
        if len(text) > 1 and text[0] == "{" and text[-1] == "}" and _is_closed_by_last_brace(text):
            inner = text[1:-1]
            text = f"\\{{{inner}\\}}" if "," in inner or _CONDITION.match(inner) else inner
        if (whole := TEXT_GROUP.fullmatch(text)) is not None:
            text = whole.group(1)
        if text == before:
            return text


def _without_delimiters(text: str) -> str:
    r"""Remove the delimiters of mathematics around the whole text: \[...\], \(...\), $...$ or an environment."""
    if text[:1] not in ("\\", "$"):
        return text
    if whole := _DISPLAY.fullmatch(text):
        return (whole[1] or whole[4] or "").strip()
    if (whole := re.fullmatch(r"\\\((.*)\\\)|\$\$?([^$]*)\$\$?", text, re.S)) and "\\(" not in (whole[1] or ""):
        return (whole[1] or whole[2] or "").strip()
    return text


def _unwrap_boxes(text: str) -> str:
    """Replace a box around the whole text, or around the value after "=", by its content."""
    if text[:1] == "\\":
        text = re.sub(
            r"^\\(?:fbox|framebox)(?=\{)", r"\\boxed", re.sub(r"^\\(?:display|text)style(?![a-z])\s*", "", text)
        )
    while text.startswith("\\boxed{") and text.endswith("}") and _is_closed_by_last_brace(text[6:]):
        text = text[7:-1].strip()
    if (inner := _NAMED_BOX.search(text)) and text.endswith("}") and _is_closed_by_last_brace(text[inner.end() - 1 :]):
        text = text[: inner.start()] + "= " + _unwrap_boxes(text[inner.end() : -1].strip())
    return text


def _is_closed_by_last_brace(text: str) -> bool:
    """Return whether the brace that opens the text is closed by the last character of the text."""
    depth = 0
    for i, character in enumerate(text):
        if character == "{" and text[i - 1 : i] != "\\":
            depth += 1
        elif character == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
    return False


def equality_key(text: str) -> str:
    """Return a key for comparing normalised texts as strings: text commands are replaced by their content, and spaces
    and the braces of one-character scripts are removed, but `3 4` stays different from `34`."""
    text = TEXT_GROUP.sub(r"\1", text)
    text = re.sub(r"([\^_])\{([A-Za-z0-9+*])\}", r"\1\2", text)
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", r"\1\\ ", text)
    if _SPACE_BETWEEN_DIGITS.search(text):
        text = _THOUSANDS.sub(lambda found: found.group().replace(" ", ""), text)
        text = _SPACE_BETWEEN_DIGITS.sub(r"\\", text)  # 3 4 is not 34
    return re.sub(r"\s+", "", text)
