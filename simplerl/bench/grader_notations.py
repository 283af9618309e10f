r"""Tests the comparison of answers on rewritten and damaged gold answers: `python -m simplerl.bench.grader_notations
FOLDER`.

Every gold answer must equal itself in each other notation that applies to it, and must not equal a damaged copy:
decimal point moved or dropped, slash dropped, sign flipped, power dropped, kind of bracket changed, digit changed.
Prints the numbers of pairs and of wrong verdicts per data set, with the smallest number of notations of one of its gold
answers, then those per notation and kind of damage, and then every wrong verdict.

FOLDER has the benchmarks' files `<name>.jsonl` in benchmarks/, and optionally math_lvl3to5_8k.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simplerl.data.benchmarks import BENCHMARKS
from simplerl.data.sources import benchmark
from simplerl.rewards.equality import compare
from simplerl.rewards.rules import EQUAL

Rewrite = Callable[[str], str | None]
RL_SET = "math_lvl3to5_8k.json"
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?|-?\\frac\{\d+\}\{\d+\}")
_UNICODE = {
    r"\pi": "π", r"\infty": "∞", r"\cup": "∪", r"\le": "≤", r"\ge": "≥", r"\leq": "≤", r"\geq": "≥", r"\alpha": "α",
    r"\theta": "θ", r"\pm": "±", r"\cdot": "·", r"\times": "×", r"^2": "²", r"^{2}": "²", r"^3": "³", r"^{-1}": "⁻¹",
    r"^\circ": "°", r"^{\circ}": "°", r"\in": "∈", r"\neq": "≠", r"\emptyset": "∅", "-": "−", "_1": "₁", "_{2}": "₂",
}  # fmt: skip
_UNICODE_PATTERN = re.compile(
    "|".join(
        re.escape(one) + (r"(?![A-Za-z])" if one[-1].isalpha() else r"(?!\d)" if one[-1].isdigit() else "")
        for one in sorted(_UNICODE, key=len, reverse=True)
    )
)


def _changed(text: str, rewritten: str) -> str | None:
    return rewritten if rewritten != text else None


def _in_unicode(gold: str) -> str | None:
    if "\\text" in gold or "\\mbox" in gold or "\\begin" in gold:
        return None
    return _changed(gold, _UNICODE_PATTERN.sub(lambda found: _UNICODE[found[0]], gold))


def _spaced(gold: str) -> str | None:
    if re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", "", gold)) or "\\\\" in gold or "\\!" in gold:
        return None
    return _changed(gold, re.sub(r"(?<![\\A-Za-z])([=+)(]|,(?![\d\\]))(?![A-Za-z]*\})", r" \1 ", gold))


NOTATIONS: dict[str, Rewrite] = {
    "dfrac": lambda gold: _changed(gold, gold.replace("\\frac", "\\dfrac")),
    "spaces": _spaced,
    "unit in text": lambda gold: f"{gold} \\text{{ cm}}" if _PLAIN_NUMBER.fullmatch(gold) else None,
    "Unicode": _in_unicode,
    "doubled backslashes": lambda gold: (
        _changed(gold, gold.replace("\\", "\\\\")) if "\\\\" not in gold and "\\ " not in gold else None
    ),
    "display delimiters": lambda gold: f"\\[{gold}\\]" if "$" not in gold else None,
    "dollars": lambda gold: f"${gold}$" if "$" not in gold else None,
    "displaystyle": lambda gold: f"\\displaystyle {gold}",
    "spaces around": lambda gold: f" {gold} \\,",
    "the answer is": lambda gold: f"\\text{{The answer is }}{gold}",
    "inline delimiters": lambda gold: f"\\({gold}\\)" if "$" not in gold else None,
    "left and right": lambda gold: (
        _changed(gold, re.sub(r"(?<![\\A-Za-z\])}])\(([^()]*)\)", r"\\left(\1\\right)", gold))
        if "\\left" not in gold
        else None
    ),
    "full stop": lambda gold: f"{gold}." if gold[-1:].isalnum() else None,
    "boxed again": lambda gold: f"\\boxed{{{gold}}}" if gold.count("{") == gold.count("}") else None,
}


def _last_decimal(gold: str, replacement: str) -> str | None:
    return _changed(gold, re.sub(r"(\d)\.(\d*[1-9])", replacement, gold, count=1))


def _other_bracket(gold: str) -> str | None:
    if gold[:1] not in ("(", "[") or gold[-1:] not in (")", "]") or "," not in gold or "infty" in gold:
        return None
    return ("[" if gold[0] == "(" else "(") + gold[1:]


def _other_sign(gold: str) -> str | None:
    found = re.fullmatch(r"(-?)((?:\d|\\frac|\\sqrt)[^,=\\±]*|\\(?:frac|sqrt)\{\d+\}(?:\{\d+\})?)", gold)
    if found is None or not re.search(r"[1-9]", gold):
        return None
    return found[2] if found[1] else f"-{gold}" if not re.search(r"(?<=.)[+-]", gold) else None


def _other_digit(gold: str) -> str | None:
    """Change the first digit of a gold answer that is one integer, fraction or root."""
    whole = re.fullmatch(r"(-?(?:\\frac\{|\\sqrt\{)?)(\d)(\d*(?:\}\{\d+\}|\})?)", gold)
    return f"{whole[1]}{int(whole[2]) % 9 + 1}{whole[3]}" if whole and whole[2] != "0" else None


DAMAGES: dict[str, Rewrite] = {
    "decimal point dropped": lambda gold: _last_decimal(gold, r"\1\2"),
    "decimal point moved": lambda gold: _last_decimal(gold, r".\1\2"),
    "slash dropped": lambda gold: _changed(gold, re.sub(r"(\d)\s*/\s*(\d)", r"\1\2", gold, count=1)),
    "sign flipped": _other_sign,
    "power dropped": lambda gold: _changed(
        gold, re.sub(r"(?<=[A-Za-z2-9])\^(?:\{([2-9n])\}|([2-9n]))", r"\1\2", gold, count=1)
    ),
    "bracket changed": _other_bracket,
    "digit changed": _other_digit,
}


def read_golds(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (source, gold answer) of all benchmarks and of the RL set, without empty ones."""
    for name in BENCHMARKS:
        for problem in benchmark(name=name, path=str(folder / "benchmarks")):
            if problem.answer:
                yield name, problem.answer
    if (path := folder / RL_SET).exists():
        yield from (("math_rl", row["answer"]) for row in json.loads(path.read_text(encoding="utf-8")) if row["answer"])


@dataclass(frozen=True)
class Verdict:
    """Holds the outcome of comparing a rewritten or damaged copy of a gold answer with it."""

    source: str
    kind: str
    answer: str
    gold: str
    wrong: bool


def judge(golds: Iterable[tuple[str, str]]) -> Iterator[Verdict]:
    """Yield the verdict on every copy of every distinct (source, gold answer)."""
    for source, gold in dict.fromkeys(golds):
        for kind, rewrite in (NOTATIONS | DAMAGES).items():
            if (answer := rewrite(gold)) is not None:
                correct = compare(answer, gold, source=source) == EQUAL
                yield Verdict(source, kind, answer, gold, correct != (kind in NOTATIONS))


def describe_sources(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a table with one line per data set."""
    head = (
        f"{'':16}{'golds':>7}{'fewest notations':>18}{'pairs equal':>13}{'wrong':>7}{'pairs different':>17}{'wrong':>7}"
    )
    lines = [head]
    for source in dict.fromkeys(one.source for one in verdicts):
        mine = [one for one in verdicts if one.source == source]
        equal = [one for one in mine if one.kind in NOTATIONS]
        damaged = [one for one in mine if one.kind in DAMAGES]
        per_gold = Counter(one.gold for one in equal)
        wrong = [sum(one.wrong for one in some) for some in (equal, damaged)]
        lines.append(
            f"{source:16}{len(per_gold):7}{min(per_gold.values()):18}{len(equal):13}{wrong[0]:7}{len(damaged):17}{wrong[1]:7}"
        )
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.grader_notations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with benchmarks/ and the RL set")
    verdicts = list(judge(read_golds(parser.parse_args(arguments).folder)))
    print("\n".join(describe_sources(verdicts)))
    pairs, wrong = (Counter(one.kind for one in some) for some in (verdicts, [v for v in verdicts if v.wrong]))
    for kind in (*NOTATIONS, *DAMAGES):
        must = "equal" if kind in NOTATIONS else "different"
        print(f"{kind:24} {pairs[kind]:6} pairs that must be {must:10} {wrong[kind]:5} wrong")
    for one in verdicts:
        if one.wrong:
            print(f"{one.kind}: {one.answer!r:.150} | {one.gold!r:.150}")


if __name__ == "__main__":
    main(sys.argv[1:])
