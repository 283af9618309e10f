"""Text features of responses, and their running time on degenerate texts."""

from __future__ import annotations

import time

import pytest

from simplerl.evals.behaviour import has_box, is_code, reflection_words, reflects, repetition
from simplerl.evals.statistics import majority_vote_accuracy


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
    assert reflection_words("Wait, let me recheck. However, try\nagain!") == ["wait", "recheck", "however", "try again"]
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
REPEATED = [
    *(
        "\n",
        " ",
        "\t",
        " \n",
        "\u2028",
        "{",
        "}",
        "{}",
        "(",
        "\\",
        "\\\\",
        "$",
        "1",
        "1 ",
        "1,",
        "-",
        "=",
        ".",
        "*",
        "a",
        "a ",
    ),
    *(
        "boxed{",
        r"\boxed{",
        r"\frac{",
        "```",
        "``` ",
        "```py",
        "try ",
        "try again ",
        "import a",
        "import a ",
        "from a.",
    ),
    *("def a", "print(", "\nimport ", "answer is ", "wait", "wait "),
]
DEGENERATE = {unit: unit * (32_000 // len(unit)) for unit in REPEATED} | {
    "nested braces": "{" * 16_000 + "}" * 16_000,
    "spaces between digits": "1" + " " * 32_000 + "1",
    "import, spaces, x": "import a" + " " * 32_000 + "x",
    "try, spaces, x": "try" + " " * 32_000 + "x",
    "spaces, x": " " * 32_000 + "x",
    "newlines, x": "\n" * 32_000 + "x",
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_texts_take_linear_time(name: str) -> None:
    text = DEGENERATE[name]
    for function in (has_box, is_code, reflection_words, reflects, repetition, _vote):
        start = time.process_time()
        function(text)
        assert time.process_time() - start < 0.5, function.__name__


def _vote(text: str) -> float:
    return majority_vote_accuracy([text, text[:-1], "1"], [False, False, True])
