"""Text features of responses, and their running time on degenerate texts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from analysis.aha import FAMILIES, word_pattern
from simplerl.evals.behaviour import has_box, is_code, reflects, repetition
from simplerl.evals.statistics import MAX_VOTE, majority_vote_accuracy
from simplerl.rewards.extract import boxed_answer, cut_at_stop, last_boxed
from simplerl.rewards.free_text import lenient_answer
from simplerl.rewards.qwen import qwen_answer
from simplerl.runs.rollout_table import rollout_table
from simplerl.types import Problem, Prompt, Rollout, Score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{3}", True),
        (r"so \boxed 3", True),
        (r"so \boxed{3", True),
        (r"\fbox{7}", True),
        ("boxed 3", False),
        (r"\boxedx{3}", False),
    ],
)
def test_box(text: str, expected: bool) -> None:
    assert has_box(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\na = 3", True),
        ("Let us code:\n    def solve():\n", True),
        ("import sympy as sp\nx = 1", True),
        ("from math import gcd", True),
        ("x = 3\nprint(x)", True),
        ("First 3 + 4 = 7\nThe answer is \\boxed{7}", False),
        ("we import goods from Spain and print money", False),
        ("```\n3 + 4\n```", False),
        ("import duty is 5 dollars", False),
        ("text\n \n\t\n  import os \t\n\nmore", True),
        ("\n\n\x0b\x0cprint(3)", True),
        ("a = 3; import os", False),
        ("import os # ok", False),
    ],
)
def test_code(text: str, expected: bool) -> None:
    assert is_code(text) is expected


def test_reflection_words_are_whole_words() -> None:
    for text in ("Wait, what?", "let me recheck.", "However, it is", "try\nagain!"):
        assert reflects(text), text
    assert not reflects("The waiter is awaiting; rechecking waits howevermuch.")
    assert reflects("ALTERNATIVELY")


def test_repetition_by_hand() -> None:
    assert repetition("a b c d e f g h i j k l") == 0.0
    # 16 words that repeat after 8: 9 windows, of which 8 are distinct
    assert repetition("a b c d e f g h " * 2) == pytest.approx(1 / 9)
    assert repetition("no " * 107) == pytest.approx(1 - 1 / 100)
    assert repetition("1" * 16 * 107) == pytest.approx(0.99)  # also without spaces
    assert repetition("short text") == 0.0


# What a model repeats when it degenerates, and what makes a careless regular expression backtrack.
REPEATED = (
    *(
        "\n",
        " ",
        "\t",
        " \n",
        "\r\n",
        "\u2028",
        "`",
        "```",
        "``` ",
        "```py",
        "{",
        "}",
        "{}",
        "(",
        "[",
        "$",
        "$$",
        "=",
        "-",
        ".",
    ),
    *(
        "1",
        "1 ",
        "1,",
        "12,",
        "123,",
        "1.",
        "1, ",
        "-1",
        "1e",
        "%",
        ",",
        "|",
        "*",
        "**",
        "_",
        "#",
        "####",
        "# a\n",
        "a",
        "a ",
    ),
    *("中", "选", "\ud800", "\x00", "\\", "\\\\", "\\[ ", "\\(", "\\frac{", "\\text{", "\\boxed", "\\boxed{", "boxed{"),
    *("$a ", "$1$, ", "$a$ or ", "(1, ", "1 or ", "1/2, or ", "1 x 10^", "answer ", "answer is ", "The answer is $"),
    *("<answer>", "<answer>1", "</answer>", "<|", "option A ", "A is correct ", "the roots of a are ", '"', "“"),
    *("try ", "try again ", "wait ", "import a", "import a ", "from a.", "def a", "print(", "\nimport "),
)
LENGTH = 32_000
DEGENERATE = {unit: unit * (LENGTH // len(unit)) for unit in REPEATED} | {
    "nested braces": "{" * 16_000 + "}" * 16_000,
    "nested boxes": "\\boxed{" * 4_000 + "}" * 4_000,
    "braces in a box": "\\boxed{" + "{" * 16_000 + "}" * 16_000 + "}",
    "spaces in a box": "\\boxed{" + " " * LENGTH + "}",
    **{f"{start} and spaces": start + " " * LENGTH + "x" for start in ("", "1", "answer", "import a", "try")},
    "newlines, x": "\n" * LENGTH + "x",
    **{
        f"answer is {unit}": "answer is " + unit * (LENGTH // len(unit))
        for unit in ("1", "111,", "1, ", "$1$, ", "(1, ")
    },
}
LIMIT = 0.1  # seconds of CPU time


def _vote(text: str) -> None:
    """Vote with the whole text and with answers just below the lengths at which answers are treated otherwise."""
    majority_vote_accuracy([text, text[:-1], text[:MAX_VOTE], text[: MAX_VOTE - 1], "1"], [False] * 4 + [True])


def _table(text: str) -> None:
    prompt = Prompt(Problem("p", text, text), text, ())
    rollout_table([Rollout(prompt, 0, text, (), (), "stop", Score(0.0, False, "different", text))], 0)


def _search_words(text: str) -> None:
    for words in FAMILIES.values():
        word_pattern(words).search(text)


@pytest.mark.parametrize(
    "function",
    [
        *(has_box, is_code, reflects, repetition, cut_at_stop, last_boxed, boxed_answer),
        *(lenient_answer, qwen_answer, _vote, _table, _search_words),
    ],
)
def test_degenerate_texts_take_linear_time(function: Callable[[str], object]) -> None:
    """No text of a model may stall the main process, which runs these functions on every response, or raise."""
    seconds = {name: _seconds(function, text) for name, text in DEGENERATE.items()}
    slow = {name: again for name, one in seconds.items() if one > LIMIT and (again := _again(function, name)) > LIMIT}
    assert slow == {}


def _again(function: Callable[[str], object], name: str) -> float:
    return min(_seconds(function, DEGENERATE[name]) for _ in range(3))


def _seconds(function: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    function(text)
    return time.process_time() - start


def test_votes_of_long_answers_ignore_white_space() -> None:
    long = "x + " * MAX_VOTE
    assert majority_vote_accuracy([long, long.replace(" ", ""), "3"], [False, False, True]) == 0.0


def test_a_rollout_table_replaces_what_utf8_cannot_encode() -> None:
    rollout = Rollout(
        Prompt(Problem("p", "", "5"), "", ()), 0, "a\ud800b", (), (), "stop", Score(0.0, False, "different")
    )
    assert rollout_table([rollout], 0).column("response").to_pylist() == ["a?b"]
