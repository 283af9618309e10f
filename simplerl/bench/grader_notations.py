r"""Tests the comparison of answers on rewritten and damaged gold answers: `python -m simplerl.bench.grader_notations
FOLDER`.

Every gold answer must equal itself in each other notation that applies to it, and must not equal a damaged copy:
decimal point moved or dropped, slash dropped, sign flipped, power dropped, kind of bracket changed. Prints one line per
notation and kind of damage with the numbers of pairs and of wrong verdicts, and then every wrong verdict.

FOLDER has the benchmarks' files `<name>.jsonl` in benchmarks/, and optionally math_lvl3to5_8k.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
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


DAMAGES: dict[str, Rewrite] = {
    "decimal point dropped": lambda gold: _last_decimal(gold, r"\1\2"),
    "decimal point moved": lambda gold: _last_decimal(gold, r".\1\2"),
    "slash dropped": lambda gold: _changed(gold, re.sub(r"(\d)\s*/\s*(\d)", r"\1\2", gold, count=1)),
    "sign flipped": _other_sign,
    "power dropped": lambda gold: _changed(
        gold, re.sub(r"(?<=[A-Za-z2-9])\^(?:\{([2-9n])\}|([2-9n]))", r"\1\2", gold, count=1)
    ),
    "bracket changed": _other_bracket,
}


def read_golds(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (source, gold answer) of all benchmarks and of the RL set, without empty ones."""
    for name in BENCHMARKS:
        for problem in benchmark(name=name, path=str(folder / "benchmarks")):
            if problem.answer:
                yield name, problem.answer
    if (path := folder / RL_SET).exists():
        yield from (("math_rl", row["answer"]) for row in json.loads(path.read_text(encoding="utf-8")) if row["answer"])


def count(golds: list[tuple[str, str]]) -> tuple[dict[str, Counter[str]], list[tuple[str, str, str]]]:
    """Return the numbers of pairs and of wrong verdicts by kind, and the wrong verdicts as (kind, answer, gold)."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in (*NOTATIONS, *DAMAGES)}
    wrong = []
    for source, gold in dict.fromkeys(golds):
        for kind, rewrite in (NOTATIONS | DAMAGES).items():
            if (answer := rewrite(gold)) is None:
                continue
            correct = compare(answer, gold, source=source) == EQUAL
            counts[kind]["pairs"] += 1
            if correct != (kind in NOTATIONS):
                counts[kind]["wrong"] += 1
                wrong.append((kind, answer, gold))
    return counts, wrong


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.grader_notations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with benchmarks/ and the RL set")
    counts, wrong = count(list(read_golds(parser.parse_args(arguments).folder)))
    for kind, found in counts.items():
        must = "equal" if kind in NOTATIONS else "different"
        print(f"{kind:24} {found['pairs']:6} pairs that must be {must:10} {found['wrong']:5} wrong")
    for kind, answer, gold in wrong:
        print(f"{kind}: {answer!r:.150} | {gold!r:.150}")


if __name__ == "__main__":
    main(sys.argv[1:])
