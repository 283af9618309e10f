"""Tests the published rules: extraction, the evaluation's equality with its quirks, and the training reward."""

from __future__ import annotations

import pytest

from simplerl.errors import ConfigError
from simplerl.rewards import lenient, strict
from simplerl.rewards.equality import compare, judge
from simplerl.rewards.qwen import normal_form, qwen_answer
from simplerl.rewards.rules import DIFFERENT, EQUAL
from simplerl.types import Problem

PROBLEM = Problem(id="p", question="", answer="\\frac{1}{2}")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("final answer is $3$. I hope it is correct. \\boxed{4}", "3"),
        ("\\boxed{4} the answer is 5", "4"),
        ("\\boxed{\\frac{1}{2}", "\\frac{1}{2}"),
        ("boxed 7$ done", "7"),
        ("the answer is 12.", "12"),
        ("we count 3, then 1,234", "1234"),
        ("nothing", None),
    ],
)
def test_qwen_extraction_order(response: str, answer: str | None) -> None:
    assert qwen_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "reward", "status"),
    [
        (r"\boxed{0.5}", 1.0, "equal"),
        (r"so \boxed{\frac{1}{2}", 1.0, "equal"),
        (r"so \boxed 0.5$", 1.0, "equal"),
        ("the word boxed 1/2", 1.0, "equal"),
        (r"\boxed{3}", -0.5, "different"),
        (r"\boxed{}", -0.5, "no_answer"),
        ("The answer is 1/2.", -1.0, "no_answer"),
        (r"1/2</s>\boxed{0.5}", -1.0, "no_answer"),
    ],
)
def test_strict_with_rule_qwen_extracts_as_published(response: str, reward: float, status: str) -> None:
    score = strict(response, PROBLEM, rule="qwen")
    assert (score.reward, score.status) == (reward, status)


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("13", "1300", EQUAL),
        ("0.13", "13", EQUAL),
        ("1.3", "13", DIFFERENT),
        ("1e999", "5", DIFFERENT),
        ("12345678", "12345679", EQUAL),
        ("(0,1]", "[0,1]", EQUAL),
        ("anything", "", DIFFERENT),
        ("", "", EQUAL),
        ("4", "4 t", EQUAL),
        ("4", "4t", DIFFERENT),
        ("b+1", "1+b", EQUAL),
        ("2.0001", "2", EQUAL),
        ("2\\frac58", "\\frac{10}{8}", EQUAL),  # a mixed number is a product
        ("K", "\\textbf{(K)}", DIFFERENT),
        ("A B C", "C", EQUAL),
        ("2,1", "1,2", DIFFERENT),
        ("1,2", "1,3", EQUAL),  # the readable beginning
        ("1", "1,-2", EQUAL),
        ("(1,2)", "(1,3)", DIFFERENT),
        ("(1,2),(3,4)", "(1,2),(3,5)", DIFFERENT),
        ("x < 3", "x > 3", EQUAL),
        ("x=2", "2", EQUAL),
        ("\\frac 92", "\\frac{9}{2}", EQUAL),
        ("1-\\sqrt5,1+\\sqrt5", "1\\pm\\sqrt5", DIFFERENT),
        ("\\frac{2}{4}", "0.5", EQUAL),
        ("x+1", "1+x", EQUAL),
    ],
)
def test_qwen_quirks(answer: str, gold: str, verdict: str) -> None:
    assert compare(answer, gold, rule="qwen") == verdict


@pytest.mark.parametrize(
    ("gold", "verdict"),
    [
        *((gold, EQUAL) for gold in ("13", "\\frac{1}{2}", "x^2 + 1", "(0, 1) \\cup (2, 3)", "10\\%", "C")),
        *((gold, DIFFERENT) for gold in ("90^\\circ", "\\text{Evelyn}", "\\$5", "1 \\pm \\sqrt{2}", "5\\mbox{ cm}^2")),
    ],
)
def test_the_published_training_reward_does_not_normalise_the_gold(gold: str, verdict: str) -> None:
    assert compare(gold, gold, rule="qwen") == EQUAL
    assert compare(normal_form(gold), gold, rule="qwen_train") == verdict


@pytest.mark.parametrize(
    ("gold", "training", "evaluation"),
    [
        ("\\frac 92", DIFFERENT, EQUAL),
        ("\\tfrac34", DIFFERENT, EQUAL),
        ("12,\\!000", DIFFERENT, EQUAL),
        ("2\\sqrt 3", DIFFERENT, EQUAL),
        ("6, 8\\text{ and }10", DIFFERENT, EQUAL),
        ("\\left( \\frac{1}{2}, 3 \\right)", DIFFERENT, DIFFERENT),
        ("\\left[ \\frac{1}{2}, 3 \\right]", EQUAL, EQUAL),
        ("\\log\\left(\\frac{7}{6}\\right)", EQUAL, EQUAL),
        ("(x^2 + 5x + 2)(x + 9)", EQUAL, EQUAL),
        ("(-\\infty, 0] \\cup (2, 3)", EQUAL, EQUAL),
        ("x + y + z = 0", EQUAL, EQUAL),
        ("-\\frac{5}{3}.", EQUAL, EQUAL),
        ("23a+39b", EQUAL, EQUAL),
        ("a+b", DIFFERENT, DIFFERENT),  # the letters are removed from the answer as units
        ("", EQUAL, EQUAL),
    ],
)
def test_what_the_published_training_reward_reads_depends_on_its_packages(
    gold: str, training: str, evaluation: str
) -> None:
    answer = normal_form(gold)
    assert judge(answer, gold, rule="qwen_train", environment="training").status == training
    assert judge(answer, gold, rule="qwen_train", environment="evaluation").status == evaluation


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="environment=b is unknown: choose one of training, evaluation"):
        judge("1", "1", rule="qwen_train", environment="b")  # type: ignore[arg-type]


def test_an_empty_gold_answer_takes_only_an_empty_answer() -> None:
    empty = Problem(id="p", question="", answer="")
    assert strict(r"\boxed{}", empty, rule="qwen_train").reward == 1
    assert strict(r"\boxed{5}", empty, rule="qwen_train").reward == -0.5
    assert lenient("nothing", empty, rule="qwen").correct
    assert not lenient("5", empty, rule="qwen").correct
