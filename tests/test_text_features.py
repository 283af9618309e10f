from __future__ import annotations

import pytest

from simplerl.evals.behaviour import has_box, is_code, reflection_words, reflects, repetition


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
    # 16 words, a cycle of 8: 9 windows, of which 8 differ
    assert repetition("a b c d e f g h " * 2) == pytest.approx(1 / 9)
    assert repetition("no " * 107) == pytest.approx(1 - 1 / 100)
    assert repetition("1" * 16 * 107) == pytest.approx(0.99)  # without spaces, too
    assert repetition("short text") == 0.0
