r"""Extracts the final answer from a response wherever it is written, without computing it, in time linear in the text.

Takes the first of these that the response contains:
- The content of the last <answer> tag, unless a box follows it.
- The last box, else an unclosed last box. Without a box, only what follows </think> counts if it has an answer.
- The value after the last "answer is", "Answer:", "答案是", "A:" or "####", or the option that is called correct.
  "####" before words is a heading, and so is a line of words after fewer "#".
- Mathematics on the last line, else the last number. "cannot be 42" and "not 42" are not answers.

Rules for the value:
- Text between two dollar amounts is not a formula: it is recognised by a digit after the closing $, or by three plain
  words inside.
- "5 or 6" is one answer with two items, and so is a list that directly follows a marker; "20, up from 15" is 20. Two
  notations of one number ("1/2, or 0.5") are one value.
- A number within an expression without math delimiters (sqrt(2), 5^2, 3x + 2) is not extracted alone: the whole
  expression is the answer. So are "5 million", $5$ million and $3$/4, and a sentence after a marker or a last line that
  is mathematics as a whole. A number may stand next to a character of another script (35个).
- "minus 5" is -5, "less than 5" is <5. An empty <answer> tag is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from simplerl.rewards.algebra import expressions_equal
from simplerl.rewards.extract import cut_at_stop, last_boxed
from simplerl.rewards.normalize import normalize
from simplerl.rewards.numeric import parse_number
from simplerl.rewards.plain_math import plain_text, whole_expression, with_signs, without_inner_spaces

_TAG = re.compile(r"<answer>", re.I)
_TAG_END = re.compile(r"</answer>|</?think>", re.I)
_MARKER = re.compile(
    r"\b(?:answers?|results?|solutions?)\s?(?:\*\*|__)?\s?(?:is|are|should be|would be|:|=)\s?(?:\*\*|__)?\s?:?"
    r"|^\s?A\s?:|答案?(?:是|为|：|:)|答え?は|정?답은"
    r"|(?:Ответ|réponse|respuesta|resposta|risposta|Antwort)(?:\s?:|\s(?:est|es|é|è|ist)\s)"
    r"|\banswer(?:\*\*)?\s?:?(?:\*\*)?\s?(?=\\[(\[]|\$)"
    r"|(?P<list>\b(?:roots|zeros|zeroes|values|numbers)\s(?:of\s\S{1,20}\s)?are\s?:?)|(?P<hashes>####+)",
    re.I | re.M,
)
_LETTER = (  # an option, unless the letter is part of a formula or another option follows ("A or B")
    r"\s?(?:\*\*|\$|\\\(|\\(?:text|mathrm|textbf|mathbf)\s?\{){0,3}+\s?[(（]?"
    r"([A-J])(?![A-Za-z0-9_'’]|\s?(?:[-=+/^<>]|\*(?!\*)))[)）]?+[*$}]{0,4}+"
    r"(?!\s?(?:[,、&/和或]|,?\s?(?:and|or)\b)\s?(?:\*\*|\$)?[(（]?(?:[A-J]|[IV]{1,3})(?![A-Za-z'’]))"
)
_CHOICE = r"(?:[Oo]ption|[Cc]hoice)"
_NOUN = rf"(?:{_CHOICE}|[Aa]nswer|one)"
_RIGHT = r"(?:[Cc]orrect|[Rr]ight|[Bb]est|[Tt]rue|[Ff]inal)"
_SO = r"(?:[Tt]herefore|[Tt]hus|[Hh]ence|[Ss]o)"
_OPTIONS = (  # sentences that call an option correct
    rf"\b(?:{_RIGHT}\s)?{_NOUN}\s?(?:(?:is|must be|should be)\s?:?|:)\s?(?:{_CHOICE})?{_LETTER}",
    rf"\b{_NOUN}{_LETTER}\s(?:is|must be)\s(?:the\s)?(?:only\s)?(?:{_RIGHT}|answer)\b",
    rf"(?<![\w\\]){_LETTER}\sis\s(?:the\s{_NOUN}|(?:the\s)?(?:only\s)?{_RIGHT}\s{_NOUN})\b",
    rf"\b(?:[Cc]hoose|[Pp]ick|[Ss]elect)\s(?:{_CHOICE}\s?)?{_LETTER}(?=\s?(?:[.,;:!]|$|as\b|because\b|since\b))",
    rf"\b(?:must|has to|should|can only) be\s(?:{_CHOICE}\s)?(?=[($*\\]){_LETTER}",
    rf"(?:选项|答案)(?:是|为|应为|：|:){_LETTER}|(?<!不)(?<!可)选择?[：:]?{_LETTER}|{_LETTER}\s?(?:选?项)?是?正确",
)
_OPTION = re.compile("|".join(_OPTIONS), re.M)
# The same without the word option: it counts only if no number follows.
_OPTION_ALONE = re.compile(
    rf"(?:^|[.,;:。，]\s?|\b(?:{_SO}|[Oo]nly)\s){_LETTER}\sis\s(?:correct|right|true)"
    rf"|\b{_SO}(?:,\s(?!I)|,?\s(?=[($*\\])){_LETTER}\.?\s?\Z",
    re.M,
)
_HEADING = re.compile(r"^\s?#{1,6}\s?(?=\S*[^\W\d_]{2}|\d+[.):]\s?\D).*$", re.M)
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}|\\(?:text|mbox|mathrm)\s*\{[^{}]*\}")
_MATH = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$((?:\\.|[^$\\\n])+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_LETTERS = "A-Za-zÀ-ɏΑ-ω_"  # of formulas, unlike the characters of other scripts
_OTHER_SCRIPT = re.compile(r"[\u0400-\u1fff\u3040-\ud7ff]")
_AMOUNT = r"-?(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?|-?\.\d++"
_SCALED = rf"(?:{_AMOUNT})(?:\\times10\^\{{[-+]?\d+\}}|\s?/\s?(?:{_AMOUNT})|:\d++)?(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(rf"(?<![{_LETTERS}\d.])(?:\\?\$\s?)?({_SCALED})(\s?\\?[%％])?")
_MULTIPLIER = re.compile(
    r"\s?(?:hundred|thousand|million|billion|trillion|dozen)\b|[万萬亿億兆만억]|[百千](?![米克瓦卡])"
)
_OPERATION = re.compile(  # after a formula
    r" ?([/^*×·+]|times) ?(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z])|\{[^{}]*\}|\$[^$\n]+\$)|( ?\\?[%％])"
)
_ITEM = (
    r"(?:\$(?:\\.|[^$\\\n])+\$(?!\d)|\\\((?:(?!\\\)).){1,300}\\\)"
    rf"|\\?\$?\s?(?<!\d)(?:{_AMOUNT})(?:/\d++)?(?:\s?\\?%)?(?![{_LETTERS}\d^]))"
)
_ITEMS = rf"{_ITEM}(?:,\s{_ITEM}){{0,60}}"  # the space keeps 1,234,567 from matching in exponentially many ways
_EACH = re.compile(_ITEM)
_CHOICES = re.compile(rf"{_ITEMS},?\sor\s{_ITEM}")
_LIST = re.compile(rf"{_ITEMS}(?:,?\s(?:or|and)\s{_ITEM}|(?<=.)(?=\.?\s?(?:$|\n)))")
_THAT_IS = r"(?:or|i\.e\.|that is|equivalently|which is|=|≈)"
_ROUNDED = r"(approximately|approx\.?|about|roughly|around|≈)\s"
_RESTATED = re.compile(  # "1/2, or 0.5", "0.5 (or 1/2)"
    rf"({_ITEM})(?:,?\s?{_THAT_IS}|,|\s?\()\s?(?:{_THAT_IS}[,\s]\s?){{0,2}}(?:{_ROUNDED})?({_ITEM})", re.I
)
_DENIED = re.compile(
    rf"(?:\b(?:cannot|not|never)|n['’]t)\s(?:(?:be|equal|equal to|simply|just)\s){{0,2}}(?:{_ITEM})"
    rf"|不(?:是|等于|为|可能是)\s?(?:{_ITEM})",
    re.I,
)
_EDGE = re.compile(r"^(?:[ *_,:;$]|\.(?!\d))+")
_QUOTED = re.compile(r"""(?:"([^"\n]{1,80})"|“([^”\n]{1,80})”|`{1,3}([^`\n]{1,80})`{1,3})""")
_ASIDE = re.compile(
    rf"(\\?\$?\s?(?:{_AMOUNT})(?:\s?\\?%)?(?:\s[a-z]+){{0,3}}),\s(?!(?:and|or|so|then|thus|hence|giving|which)\b)[a-z]"
)
# Text around a number that is part of an expression:
_EXPRESSION_BEFORE = re.compile(r"(?:[\^√/*·×+±({\[]|[A-Za-z)\]}][-+*/^({]+|\d-|[(\[][^()\[\]]*,|[<≤≥]|^[^<]*>)$")
_EXPRESSION_AFTER = re.compile(
    r"-\d|[<>≤≥](?!/?[A-Za-z]*>)[-\w(]|\^|√|π|\\?(?:sqrt|pi)\b|[*/·×+]\s?(?:[\d(\\√]|[A-Za-z](?![A-Za-z]))|\((?![A-Za-z]{2})|[A-Za-z](?![A-Za-z])"
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[!?](?=\s)|[\n。！？；．]")
_MAX_EXPRESSION = 60  # characters of an expression that are read on each side of a number
_TAIL = 2000  # characters after a marker, or at the end of a response, that are searched
_MAX_MARKERS = 20  # markers and tags that are tried, from the last


def lenient_answer(response: str) -> str | None:
    """Return the final answer of a response by the rules of this module, or None if there is none."""
    text = plain_text(cut_at_stop(response))
    for tag in reversed(list(_TAG.finditer(text))[-_MAX_MARKERS:]):
        end = _TAG_END.search(text, tag.end())
        content = text[tag.end() : end.start() if end else len(text)].strip()
        if end and last_boxed(text[end.end() :]):
            break
        if content:
            return _tagged(content)
        if end and end.group().lower() == "</answer>":  # an empty tag is no answer, whatever precedes it
            return _answer_in(text[end.end() :])
    thoughts, closed, after = text.rpartition("</think>")
    if closed and (last_boxed(text) is None or last_boxed(after)) and (answer := _answer_in(after)):
        return answer
    return _answer_in(f"{thoughts}\n{after}")


def _trimmed(text: str) -> str:
    """Return the text without the punctuation and emphasis around it; a leading decimal point stays: .5."""
    return _EDGE.sub("", text.rstrip(" *_.,:;$"))


def _tagged(content: str) -> str:
    """Return the answer in a tag: the whole content, unless it is a sentence."""
    if boxed := last_boxed(content, fbox=True):
        return boxed.strip()
    if (option := _OPTION.search(content)) and len(content) > 12:
        return _letter(option)
    if (value := _several(content)) is not None:
        return value
    if "\n" not in content and len([w for w in _PLAIN_WORD.findall(content) if len(w) > 2]) < 2:
        math = _MATH.fullmatch(content)
        return _content(math) if math else with_signs(_trimmed(content))
    return _answer_in(content) or content


def _answer_in(text: str) -> str | None:
    if (boxed := last_boxed(text, fbox=True)) is not None and boxed.strip():
        return boxed.strip()
    if (unclosed := _unclosed_box(text)) is not None:
        return unclosed
    text = with_signs(text)
    last_value = max(map(text.rfind, "0123456789$\\"))
    alone = [option for option in _OPTION_ALONE.finditer(text) if option.start() > last_value]
    markers = sorted([*_MARKER.finditer(text), *_OPTION.finditer(text), *alone], key=lambda marker: marker.end())
    for marker in markers[: -_MAX_MARKERS - 1 : -1]:
        value = _marked(text, marker) if marker.re is _MARKER else _option(text, marker)
        if value is not None:
            return value
    tail = _DENIED.sub(" ", _HEADING.sub("", text[-_TAIL:])).rstrip()
    last_line = tail.rsplit("\n", 1)[-1]
    return whole_expression(last_line) or _last_formula_or_number(last_line) or _last_formula_or_number(tail)


def _option(text: str, option: re.Match[str]) -> str:
    """Return the letter of an option, followed by the value that directly follows it, if there is one: B, or (B) 12."""
    letter, rest = _letter(option), text[option.end() : option.end() + _MAX_EXPRESSION]
    if option.group().count("$") % 2:  # the letter is within a formula
        value = re.match(r"[ .:)}]{0,4}([^$\n]+?) ?\$", rest)
    else:
        marks = "[.:)]" if option.group()[-1:].isalnum() else "[.:)]?"
        value = re.match(rf" ?{marks} ?({_ITEM})(?=[.;]?\s*(?:$|\n))", rest)
    return f"({letter}) {_item(value[1])}" if value else letter


def _letter(option: re.Match[str]) -> str:
    return next(letter for letter in option.groups() if letter)


def _unclosed_box(text: str) -> str | None:
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = re.split(r"\n|\$|\\\)|\\\]", text[start + len("\\boxed") :].lstrip(" {"), maxsplit=1)[0]
    return _trimmed(rest.rstrip(" .}")) or None


def _marked(text: str, marker: re.Match[str]) -> str | None:
    """Return the value that follows a marker such as "the answer is", or None if no value follows."""
    rest = text[marker.end() : marker.end() + _TAIL].lstrip(" \n:：*_")
    if marker["hashes"] and _is_heading(*rest.partition("\n")[::2]):
        return None
    if marker["list"] and _EACH.match(rest) is None:
        return None
    return _value(rest)


def _is_heading(line: str, following: str) -> bool:
    """Return whether the line after #### is the heading of the following text, not an answer like "20 dollars"."""
    is_words = _HEADING.match(f"# {line}") is not None or len(line.split()) > 3
    return is_words and bool(following.strip() or line.rstrip().endswith(":"))


def _value(text: str) -> str | None:  # noqa: PLR0911 - one return per form of a value
    """Return the value at the start of a text: a list, a formula, a quotation, or the value in the first sentence; None
    if there is none."""
    if (several := _several(text)) is not None:
        return several
    if (math := _MATH.match(text)) and _is_math(math):
        return _continued(text, math)[1]
    if quoted := _QUOTED.match(text):
        return _trimmed(_content(quoted)) or None
    if (option := re.match(rf"(?:[Oo]ption|[Cc]hoice|选项){_LETTER}", text)) is not None:
        return option.group(1)
    if aside := _ASIDE.match(text):
        text = aside.group(1)
    end = _SENTENCE_END.search(text)
    sentence = _trimmed(text[: end.start()] if end else text)
    if not sentence:
        return None
    if (whole := whole_expression(sentence)) is not None:
        return whole
    words = sentence.split()
    if _OTHER_SCRIPT.search(sentence) and len(_NUMBER.findall(sentence)) == 1 and not _MATH.search(sentence):
        return _last_formula_or_number(sentence)
    if len(words) <= 3 and "10^{" not in sentence and (re.search(r"\d|[A-Z]\b|\\", sentence) or len(words) == 1):
        return sentence
    return _last_formula_or_number(sentence) or (sentence if len(sentence) <= 60 else None)


def _several(text: str) -> str | None:
    """Return the items of a list at the start of a text, joined, or one value if they are two notations of it; None if
    the text does not start with a list."""
    if restated := _RESTATED.match(text):
        exact = _same_value(restated[1], restated[3], rounded=restated[2] is not None)
        if exact is not None:
            return exact
        if "or" in restated.group().split() or "(or" in restated.group():
            return _join([restated[1], restated[3]])
    if (listed := _LIST.match(text)) and len(items := _EACH.findall(listed.group())) > 1:
        return _join(items)
    return None


def _join(items: Sequence[str]) -> str:
    if len(items) == 2 and (value := _same_value(*items)) is not None:
        return value
    return ", ".join(map(_item, items))


def _item(text: str) -> str:
    """Return an item of a list without its math delimiters."""
    if math := _MATH.fullmatch(text.strip()):
        return _content(math)
    return re.sub(r"^\\?\$\s?", "", text.strip())


def _same_value(first: str, second: str, *, rounded: bool = False) -> str | None:
    """Return the more exact of two notations of one number, or None if their values differ.

    A decimal equals what it is rounded from: 1/3 and 0.333. rounded: the second is announced as an approximation.
    """
    first, second = _item(first), _item(second)
    if len(first) + len(second) > 160:
        return None
    exact, other = (second, first) if re.search(r"\.\d|%", first) else (first, second)
    texts = [normalize(text).replace("%", "") for text in (exact, other)]
    if ("%" in exact) != ("%" in other):
        texts[0 if "%" in exact else 1] += "/100"
    if expressions_equal(texts[1], texts[0]):
        return exact
    decimal = re.search(r"\.(\d+)$", texts[1])
    if decimal is None or (len(decimal[1]) < 2 and not rounded) or (number := parse_number(texts[1])) is None:
        return None
    half = Fraction(1, 2 * 10 ** len(decimal[1]))
    digits = [f"({number.value + sign * half})" for sign in (-1, 1)]
    difference = [f"|({texts[0]})-{bound}|" for bound in digits]
    within = expressions_equal(" + ".join(difference), f"{2 * half}")
    return exact if within else None


def _last_formula_or_number(text: str) -> str | None:
    """Return the formula, number or choice ("3 or 4") that ends last in a text; None if it has none."""
    text = without_inner_spaces(text)
    best: tuple[int, str] | None = None
    for math in _MATH.finditer(text):
        if _is_math(math):
            best = _continued(text, math)
    for found in _NUMBER.finditer(text):
        if best is None or found.start() >= best[0]:
            best = (found.end(), _enclosing_expression(text, found))
    for choices in _CHOICES.finditer(text) if re.search(r"\sor\s", text) else ():
        if best is not None and choices.end() >= best[0]:
            best = (choices.end(), _join(_EACH.findall(choices.group())))
    return best[1] if best else None


def _is_math(math: re.Match[str]) -> bool:
    """Return whether a match between delimiters is mathematics, not the text between two dollar amounts."""
    words: list[str] = [] if math.group(2) is None else _PLAIN_WORD.findall(math.group(2))
    return len([word for word in words if not word.startswith("\\")]) < 3


def _enclosing_expression(text: str, found: re.Match[str]) -> str:
    """Return a number, or the expression without spaces and math delimiters that contains it."""
    if multiplier := _MULTIPLIER.match(text, found.end()):
        return found.group(1) + multiplier.group()
    before = text[max(0, found.start(1) - _MAX_EXPRESSION) : found.start(1)]
    after = text[found.end(1) : found.end(1) + _MAX_EXPRESSION]
    left = re.split(rf"[\s:]|(?<![<>!])=|[^\x00-{chr(0x3FF)}√π×·]", before)[-1].lstrip("*_\"'`$")
    right = re.split(r"[\s=]|[.,;:](?!\d)", after, maxsplit=1)[0].rstrip("*_\"'`$!?")
    if _EXPRESSION_BEFORE.search(left) or _EXPRESSION_AFTER.match(right):
        whole = left + found.group(1) + right
        if whole.startswith("(") and whole.count("(") > whole.count(")"):
            whole = whole[1:]
        if re.fullmatch(rf"[(\[{{]*({_AMOUNT})[)\]}}]*", whole) is None:
            return whole
    return re.sub(r"\s", "", found.group(1) + (found.group(2) or ""))


def _continued(text: str, math: re.Match[str]) -> tuple[int, str]:
    """Return the end and the text of a formula with what continues it: $5$ million, $3$/4, $2$^3, $5$%."""
    content = _content(math)
    if multiplier := _MULTIPLIER.match(text, math.end()):
        return multiplier.end(), content + multiplier.group()
    if (operation := _OPERATION.match(text, math.end())) is None:
        return math.end(), content
    if len(content) > 1 and not content.isdigit():
        content = f"({content})"
    sign = re.sub("times|×|·", "*", operation[1] or "")
    return operation.end(), content + sign + (operation[2] or operation[3]).strip(" $")


def _content(math: re.Match[str]) -> str:
    return next(group for group in math.groups() if group is not None).strip()
