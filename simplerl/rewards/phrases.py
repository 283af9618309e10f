r"""Reads answers that are words, or words beside values: `west`, `2.5 \text{ million}`, `from 1/2 to 3`.

The words must be the same apart from case (except single letters), spaces and punctuation; the synonyms of "no
solution" and of "undefined" count as the same. A hyphen is a minus sign except in a compound (non-negative) or in a
sentence, and an apostrophe is a prime except in a contraction or possessive. The text between words is mathematics, and
`split_words` returns it separately for comparison, so that words never hide a decimal point, sign, power or bracket.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from simplerl.rewards.characters import TEXT, TEXT_GROUP
from simplerl.rewards.normalize import equality_key

_MATH_COMMAND = re.compile(r"\\(?:frac|sqrt|pi|infty|binom|ldots|sum|int|lim|log|ln|sin|cos|tan|mathbb)")
_SYNONYMS = {
    "nosolution": "emptyset", "none": "emptyset", "norealsolution": "emptyset", "nosuchsolution": "emptyset",
    "emptyset": "emptyset", "nullset": "emptyset", "theemptyset": "emptyset",
    "dne": "undefined", "doesnotexist": "undefined", "undefined": "undefined", "notdefined": "undefined",
}  # fmt: skip
_EXISTENCE = re.compile(  # "there are no real solutions", "no real solution exists", "the equation has no solution"
    r"(?:there(?:is|are|exists?)|(?:the|this|it)?(?:equation|system|inequality|problem)?(?:has|have))?"
    r"(?:(no\w+?)|(infinite(?:ly)?(?:many|(?:number)?of)?)(?:(?:real)?solution)?)s?(?:exists?)?"
)
_COMPOUND = (  # a word whose hyphen or apostrophe is spelling and neither a minus sign nor a prime
    r"(?:(?i:(?:non|co|semi|anti|multi|pre|post|sub|re|counter|self|equi|quasi|inter|half)-[a-z]{4,}"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty-(?:one|two|three|four|five|six|seven|eight|nine|[a-z]{3,}th|first|second|third)"
    r"|(?:one|two|three|four|five|six|seven|eight|nine)-(?:half|halves|thirds?|quarters?|[a-z]{3,}ths?)"
    r"|[a-z]{1,2}-(?:ax[ei]s|planes?|intercepts?|coordinates?|values?|components?|sided|th)"
    r"|[a-z]{3,}-(?:angled|sided|valued|shaped|digit|dimensional|wise|like|free)|[a-z]{2,}n't|[a-z]{3,}'(?:s|re|ll|ve|d))"
    r"|[LlDdO]'[A-Z][^\W\d_]{2,}(?:'s)?)(?![^\W\d_])"
)
_JOINED = r"(?!(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln)[A-Za-z]?-)[^\W\d_]{3,}(?:-[^\W\d_]{3,})+"  # in a sentence
_SENTENCE = re.compile(r"(?<![\\\w])[^\W\d_]{3,}\s+[^\W\d_]{3,}")
_TOKEN, _TOKEN_OF_SENTENCE = (
    re.compile(
        rf"(?P<open>{TEXT}\s*\{{)|(?P<brace>[{{}}])|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>{words}[^\W\d_]+)|(?P<other>.)",
        re.S,
    )
    for words in (f"{_COMPOUND}|", f"{_COMPOUND}|{_JOINED}|")
)
_PROSE = frozenset(",.;:!'\"`“”‘")


@dataclass(frozen=True)
class Piece:
    """Holds a part of a text: adjacent words, joined without spaces, or the mathematics between words."""

    text: str
    is_words: bool


def is_words(text: str) -> bool:
    r"""Return whether a text is words rather than mathematics, or contains words beside mathematics.

    That is text in \text{}, a word in another script, a run of four letters or more, or a text that is nothing but a
    word of three letters or capital letters: yes, AB, an option like (C).
    """
    if not re.search(r"[^\W\d_]", text):
        return False
    if text.strip().casefold() == "no":
        return True
    if "\\text" in text or "\\mbox" in text:
        bare = equality_key(text).strip("(){}.")
        return not re.search(r"\d", bare) or not re.fullmatch(r"[\d.,+\-*/^]+", bare)
    plain = re.sub(r"\\[A-Za-z]+", "", text)
    if re.search(r"[^\W\d_]", re.sub(r"[A-Za-z]", "", plain)):
        return True  # a word in another script
    if _MATH_COMMAND.search(text):
        return bool(re.search(r"[A-Za-z]{4,}", TEXT_GROUP.sub("", plain)))
    bare = equality_key(text).strip("(){}.")
    return bool(re.fullmatch(rf"{_COMPOUND}|[A-Za-z]{{3,}}|[A-Z]{{1,2}}", bare) or re.search("[A-Za-z]{4,}", plain))


def has_words(side: str) -> bool:
    r"""Return whether a side of an equation or inequality contains words: \text{...}, or a run of four letters or more
    that is not a command."""
    return "\\text" in side or "\\mbox" in side or bool(re.search(r"(?<![\\A-Za-z])[A-Za-z]{4,}", side))


def split_words(text: str) -> list[Piece]:
    r"""Return the words and the mathematics of a text in order.

    Letters are words if there are two or more (three within braces of a formula), or within \text{} and in texts
    without LaTeX if no digit or operator touches them: in `x2 \text{ only}`, x2 is mathematics.
    """
    pieces: list[tuple[str, bool]] = []
    in_text: list[bool] = []
    everything = "\\" not in text
    for token in (_TOKEN_OF_SENTENCE if _SENTENCE.search(text) else _TOKEN).finditer(text):
        piece = token.group()
        if token["open"]:
            in_text.append(True)
        elif piece == "{":
            in_text.append(in_text[-1] if in_text else False)
            if not in_text[-1]:
                pieces.append((piece, False))
        elif piece == "}":
            if not (in_text.pop() if in_text else False):
                pieces.append((piece, False))
        elif token["word"]:
            prose = everything or (in_text[-1] if in_text else False)
            single = len(piece) == 1 and piece.isascii()
            if not single and not prose and _is_mathematics(text, token, in_group=bool(in_text)):
                word = False
            else:
                word = not single or (prose and not _touches_mathematics(text, token))
            pieces.append((piece, word))
        else:
            pieces.append((piece, False))
    return _merged(pieces)


def _is_mathematics(text: str, token: re.Match[str], *, in_group: bool) -> bool:
    r"""Return whether letters outside \text are mathematics and not a word: at most two with a minus sign or a prime
    beside them, as in xy-c, or within braces, as in \frac{c}{xc}."""
    is_signed = text[token.end() :][:1] in ("-", "'") or text[: token.start()][-1:] in ("-", "'")
    return len(token.group()) < 3 and (is_signed or in_group)


def _touches_mathematics(text: str, token: re.Match[str]) -> bool:
    before, after = text[: token.start()].rstrip()[-1:], text[token.end() :].lstrip()[:1]
    return bool(re.match(r"[\d^_=+*/<>(|-]", after) or re.match(r"[\d^_=+*/<>|-]", before))


def _merged(tokens: list[tuple[str, bool]]) -> list[Piece]:
    """Join adjacent tokens of one kind. Words become lower case (single letters keep theirs) and lose hyphens and
    apostrophes; mathematics loses trailing punctuation; punctuation of prose and spaces after words are dropped."""
    pieces: list[tuple[list[str], bool]] = []
    for text, word in tokens:
        after_word = not word and bool(pieces) and pieces[-1][1]
        if after_word and (text.isspace() or (text in _PROSE and (text != "'" or _is_plural(pieces[-1][0][-1])))):
            continue  # but A' is not A
        if pieces and pieces[-1][1] == word:
            pieces[-1][0].append(text)
        elif word or not text.isspace():
            pieces.append(([text], word))
    result: list[Piece] = []
    for texts, word in pieces:
        joined = "".join(texts).strip()
        joined = re.sub(r"[-']", "", joined) if word else re.sub(r"[,.;:\s]+$", "", joined)
        if not joined.strip("() "):
            continue
        if word and result and result[-1].is_words:
            joined = result.pop().text + joined
        result.append(Piece(joined.casefold() if word and len(joined) > 1 else joined, word))
    return result


def _is_plural(word: str) -> bool:
    """Return whether an apostrophe after a word may be a possessive, as in "the students' mean", and is not a prime."""
    return re.fullmatch(r"[^\W\d_]{3,}s", word) is not None


def words_of(pieces: list[Piece]) -> str:
    """Return the words as a key for comparison, the same for all synonyms of "no solution", of "undefined" and of
    "infinitely many"."""
    joined = "\n".join(piece.text if piece.is_words else "#" for piece in pieces)
    joined = "emptyset" if joined == "#" and pieces[0].text.strip() == "\\emptyset" else joined
    if found := _EXISTENCE.fullmatch(joined):
        joined = found[1] or "infinitelymany"
    return _SYNONYMS.get(joined, joined)
