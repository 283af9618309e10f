"""Tests strict and lenient answer extraction, and the scores of the three rewards."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from simplerl.rewards import binary, lenient, strict
from simplerl.rewards.extract import boxed_answer, cut_at_stop, last_boxed
from simplerl.rewards.free_text import lenient_answer
from simplerl.types import Problem

STRICT = [
    (r"so $\boxed{5}$", "5"),
    (r"\boxed{\sqrt{\frac{\sqrt{3}}{2}}}", r"\sqrt{\frac{\sqrt{3}}{2}}"),
    (r"\boxed{3} \boxed{4}", "4"),
    (r"\boxed{3 \boxed{4}}", r"3 \boxed{4}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\{1,2}", r"\{1,2"),
    (r"\boxed {5}", "5"),
    (r"\\boxed{004}", "004"),
    (r"\boxed{5\\}", r"5\\"),
    (r"\boxed{\begin{pmatrix}1\\{-2}\end{pmatrix}}", r"\begin{pmatrix}1\\{-2}\end{pmatrix}"),
    (r"x &= 5 \\\boxed{6}", "6"),
    (r"\boxed{\{1\\\}}", r"\{1\\\}"),
    ("```\n\\boxed{5}\n```", "5"),
    (r"\boxed{5} and then \boxed{ unclosed", "5"),
    (r"\boxed{57} and finally \boxed{}", None),
    (r"\boxed{ }", None),
    (r"\boxed{{5}", None),
    (r"\boxed 5", None),
    (r"\fbox{5}", None),
    ("the answer is 5", None),
    ("", None),
    (r"\boxed{5}<|im_end|>\boxed{6}", "5"),
    (r"nothing</s>\boxed{6}", None),
    (r"5}} \boxed{6}", "6"),
]


@pytest.mark.parametrize(("response", "answer"), STRICT)
def test_strict_takes_the_last_well_formed_box(response: str, answer: str | None) -> None:
    assert boxed_answer(response) == answer


def test_fbox_counts_in_solutions_and_on_request() -> None:
    assert last_boxed(r"hence \fbox{7}") == "7"
    assert last_boxed(r"\framebox{204} minutes") == "204"
    assert last_boxed("nothing") is None
    assert last_boxed(r"\boxed{}") == ""
    assert boxed_answer(r"\boxed{1} \fbox{7}") == "1"
    assert boxed_answer(r"\boxed{1} \fbox{7}", fbox=True) == "7"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"The answer is 4. So \boxed{5}", "5"),
        (r"so \boxed{5", "5"),
        ("The answer is 6. Wait, no. The answer is 5.", "5"),
        ("The answer is (B).", "B"),
        ("The answer is (A) or (B).", "(A) or (B)"),
        ("The answer is A, B.", "A, B"),
        ("The answer is C_5.", "C_5"),
        ("The final answer is: $\\frac{3}{4}$. I hope it is correct.", r"\frac{3}{4}"),
        ("**Answer:** 42", "42"),
        ("Answer:\n 42 apples", "42 apples"),
        ("She has 3.\n#### 1,800", "1,800"),
        ("A: 1430", "1430"),
        ("答案是 12", "12"),
        ("Final Answer: The maximum number of points of $f(x)$ is 19. <|im_start|>user 7", "19"),
        ("Therefore x = 3/4", "3/4"),
        ("It is 12%.", "12%"),
        ("I paid $2 and got 1,234.50 back.", "1,234.50"),
        ("Thus \\[x = 7\\]", "x = 7"),
        ("We get -5 in the end", "-5"),
        # dollar amounts are not formulas
        ("He has $15 and she has $20.", "20"),
        ("So he pays $12 for the shirt and $20 in total.", "20"),
        ("The answer is $20, up from $15.", "20"),
        ("Answer: $15 from A and $20 from B gives $35", "35"),
        ("He pays $5 * 4 = $20.", "20"),
        ("Jane makes 3*$5=$15 and 2*$10=$20", "20"),
        (r"The answer is $\$20$.", r"\$20"),
        ("He had $12 left and she paid with a $ sign", "12"),
        (r"so $\text{the sum of all is } 5$", r"\text{the sum of all is } 5"),
        # quoted
        ('The answer is "5".', "5"),
        ("The answer is `5`.", "5"),
        # parts of an expression
        ("it is sqrt(2)", "sqrt(2)"),
        ("it is √2", "√2"),
        ("so we get 5^2", "5^2"),
        ("so 2^3 = 8", "8"),
        ("so x = 3y", "3y"),
        ("We get 2x+3", "2x+3"),
        ("thus 3*4*5", "3*4*5"),
        ("We get (5).", "5"),
        ("so 12cm", "12"),
        ("It costs $5/hour", "5"),
        # text that continues a formula, and values that are denied
        ("The answer is $5$ million.", "5 million"),
        ("The answer is $3$/4", "3/4"),
        ("so we get $2$^3", "2^3"),
        ("The answer is $x+1$/$y$", "(x+1)/y"),
        ("Answer: $5$%", "5%"),
        ("The answer is $5$\n* 3 was wrong", "5"),
        ("The answer can't be 42", None),
        ("We get 41. It cannot be 42.", "41"),
        # several items
        ("The answer is $5$ or $6$.", "5, 6"),
        ("The answer is 1, 2, 3, 4 or 5", "1, 2, 3, 4, 5"),
        ("The answer is 1, 2, 3, 4.", "1, 2, 3, 4"),
        ("The answer is 1,234 or 2,345", "1,234, 2,345"),
        ("x is 3 or 4.", "3, 4"),
        ("The answer is $\\frac{1}{2}$ and we are done", r"\frac{1}{2}"),
        # headings
        ("#### Step 1\nWe get 3.\n#### Step 2\nSo there are 8.", "8"),
        ("#### 2. Multiply\nWe get 6.", "6"),
        ("There are 8.\n\n#### Conclusion:\nThere are 8 apples", "8"),
        ("#### 20 dollars", "20 dollars"),
        ("## Step 3", None),
        # tags
        ("<think>The answer is 9.</think><answer>(3, 4)</answer>", "(3, 4)"),
        ("<think>The answer is 41</think> 42", "42"),
        ("<think>The answer is 41</think>", "41"),
        ("<think>so \\boxed{41}</think> after 2 steps", "41"),
        ("<answer>1</answer> no <answer>\n2\n</answer>", "2"),
        ("<answer>x^2 + 3x + 1</answer>", "x^2 + 3x + 1"),
        ("<answer>So there are 4 bags and 12 items.</answer>", "12"),
        (r"<answer>so \boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        (r"<answer>5</answer> \boxed{6}", "6"),
        ("<answer></answer> There are 5.", "5"),
        # options
        ("Option A is wrong. The correct option is (B).", "B"),
        ("Therefore, (A) is the correct option.", "A"),
        ("So **D** is correct.", "D"),
        ("Statement B is correct. The total is 8.", "8"),
        ("Option A is not correct.", None),
        ("The correct options are A and C.", None),
        ("故选：C", "C"),
        # other scripts
        ("答：一共有35个。", "35"),
        ("Ответ: 15 яблок.", "15"),
        ("정답은 24입니다.", "24"),
        ("价格是5万元", "5万"),
        ("It costs 5 million dollars", "5 million"),
        # two notations
        ("The answer is $\\frac{1}{2}$, or 0.5.", r"\frac{1}{2}"),
        ("The answer is 0.5 (or $\\frac12$).", r"\frac12"),
        ("The answer is 50%, or 1/2.", "1/2"),
        ("The answer is 1/3, or 0.333.", "1/3"),
        ("The answer is $\\frac{1}{2}$, or 0.6.", r"\frac{1}{2}, 0.6"),
        ("The answer is 2.5 or 2.4", "2.5, 2.4"),
        # powers of ten
        ("The answer is 2.5 × 10^-3 mol.", r"2.5\times10^{-3}"),
        ("It weighs 6.02 x 10⁻²³ kg", r"6.02\times10^{-23}"),
        # lists of formulas
        (r"The answer is $\left(1, 2\right)$ and $\left(3, 4\right)$.", r"\left(1, 2\right), \left(3, 4\right)"),
        (r"The roots are $\sqrt{2}$, $1$, and $-\sqrt{2}$.", r"\sqrt{2}, 1, -\sqrt{2}"),
        ("The roots are real, so k = 5.", "5"),
        ("no numeric answer", None),
        ("  \n ", None),
    ],
)
def test_lenient_finds_the_answer_anywhere(response: str, answer: str | None) -> None:
    assert lenient_answer(response) == answer


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "\\boxed{1}" * 100_000,
        "\\boxed{" + "{" * 200_000 + "5" + "}" * 200_000 + "}",
        "The final answer is $" * 50_000,
        "answer is" + " " * 500_000,
        "1+" * 300_000,
        "$$" * 300_000,
        "\\[ " * 200_000,
        "\\boxed{" + " " * 500_000 + "5}",
        "\\frac" * 100_000,
        "1,000" * 100_000,
        "1, " * 200_000,
        "1 or " * 100_000,
        "The answer is " + "111," * 100_000,
        "$a " * 200_000,
        "((((2" * 100_000,
    ],
)
def test_extraction_is_linear(text: str) -> None:
    """Extraction from 200,000 characters is fast; a quadratic algorithm would take minutes of CPU time."""
    text = text[:200_000]
    start = time.process_time()
    boxed_answer(text)
    lenient_answer(text)
    assert time.process_time() - start < 10


MARKS = (
    *("</s>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    *("<|header_start|>", "<|start_header_id|>", "<end_of_turn>", "<start_of_turn>", "<eos>", "<|end|>", "<|user|>"),
    *(
        "<|return|>",
        "<|EOT|>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<|END_OF_TURN_TOKEN|>",
        "[/INST]",
        "[|endofturn|]",
    ),
    *("<|role_end|>", "<|im_user|>", "<seed:eos>", "<|end_of_role|>"),
)


@pytest.mark.parametrize("mark", MARKS)
def test_end_marks_of_all_families_end_the_response(mark: str) -> None:
    assert cut_at_stop(f"a{mark}b</s>") == "a"
    assert boxed_answer(rf"\boxed{{5}}{mark} \boxed{{7}}") == "5"


@pytest.mark.parametrize("text", ["</b>", "<|end_of_thought|>", "</think>", "if x<end then |x|>2", "<answer>", "[eq]"])
def test_other_tags_do_not_end_the_response(text: str) -> None:
    assert cut_at_stop(f"a{text}b") == f"a{text}b"


EMPTY = ["", " ", r"\,", r"\text{}", "$$", "{}", ".", r"\quad", r"{ \; }", r"\mathrm{ }"]
PROBLEM = Problem(id="p", question="", answer="\\frac{1}{2}")


@pytest.mark.parametrize(
    ("response", "rewards", "status"),
    [
        (r"\boxed{0.5}", (1.0, 1.0, 1.0), "equal"),
        (r"\boxed{3}", (-0.5, 0.0, 0.0), "different"),
        ("The answer is 1/2.", (-1.0, 0.0, 1.0), "no_answer"),
        ("The answer is 3.", (-1.0, 0.0, 0.0), "no_answer"),
        ("", (-1.0, 0.0, 0.0), "no_answer"),
        (r"Put it within \boxed{}.", (-1.0, 0.0, 0.0), "no_answer"),
        (r"\boxed{0.5, 3}", (-0.5, 0.0, 0.0), "different"),
        *((rf"\boxed{{{empty}}}", (-1.0, 0.0, 0.0), "no_answer") for empty in EMPTY),
    ],
)
def test_rewards(response: str, rewards: tuple[float, float, float], status: str) -> None:
    scores = strict(response, PROBLEM), binary(response, PROBLEM), lenient(response, PROBLEM)
    assert tuple(score.reward for score in scores) == rewards
    assert scores[0].status == status
    assert scores[0].correct == (status == "equal")
    assert scores[0].parts == {"boxed": float(scores[0].extracted is not None), "gold_unread": 0.0}


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("The answer is $5$ or $6$.", "5"),
        ("The answer is 1, 2, 3, 4 or 5", "5"),
        ("it is sqrt(2)", "2"),
        ("it is √2", "2"),
        ("it is 5^2", "2"),
        ("so x = 3y", "3"),
    ],
)
def test_lenient_takes_no_part_of_an_answer(response: str, gold: str) -> None:
    assert lenient(response, Problem(id="p", question="", answer=gold)).status == "different"


@pytest.mark.parametrize(
    "text", ["The answer is {}", "Answer: **{}**", "#### {}", "<answer>{}</answer>", "so\n{}", r"\boxed{{{}"]
)
def test_lenient_keeps_a_leading_decimal_point(text: str) -> None:
    assert lenient_answer(text.format(".5")) == ".5"


@pytest.mark.parametrize(
    ("response", "gold", "correct"),
    [
        ("The answer is minus 5.", "-5", True),
        ("it is negative 5", "5", False),
        ("答案是负5", "-5", True),
        ("温度是零下5度", "5", False),
        ("答案不是5", "5", False),
        ("答案小于5", "5", False),
        ("The answer is greater than 5", "5", False),
        ("8 minus 3 equals 5", "5", True),
        ("<think>7</think><answer></answer>", "7", False),
    ],
)
def test_lenient_reads_signs_denials_and_empty_tags(response: str, gold: str, correct: bool) -> None:
    assert lenient(response, Problem(id="p", question="", answer=gold)).correct == correct


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x^2 + 3x + 2", "2"),
        ("(x - 2)(x + 3)", "3"),
        ("n(n + 1) / 2", "2"),
        ("2 < x < 5", "5"),
        ("x = 3, y = 4", "4"),
        ("x^2 + y^2 = 25", "25"),
        ("10 pi square units", "10"),
        ("5 hours 30 minutes", "30"),
        ("(2, 5)", "5"),
        ("[2, 5)", "5"),
        ("x > 5", "5"),
        ("3 - 5", "5"),
        ("±5", "5"),
        ("12 345", "345"),
        ("ln 5", "5"),
    ],
)
def test_lenient_takes_mathematics_as_a_whole(text: str, part: str) -> None:
    """After a marker and on the last line an expression with spaces is the answer; a number within it is not."""
    for response in (f"Answer: {text}\n", f"We add.\n{text}"):
        whole = lenient_answer(response)
        assert whole is not None and whole.replace("\\", "") == text
        assert not lenient(response, Problem(id="p", question="", answer=part)).correct


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The interval is 2 < x < 5.", "2<x<5"),
        ("We get x^2 + 3x + 2 for all x.", "x^2+3x+2"),
        ("It is ln 5.", "ln(5)"),
        ("so\n10 / 3 = 3.33", "3.33"),
        ("so\n2x = 10, x = 5", "5"),
        ("so\n- 5", "5"),
        ("so\n5!", "5!"),
        ("<b>5</b>", "5"),
        ("Therefore, C.", "C"),
    ],
)
def test_lenient_takes_the_enclosing_expression_or_the_computed_value(response: str, answer: str) -> None:
    assert lenient_answer(response) == answer


def test_lenient_takes_several_items_as_one_answer() -> None:
    assert lenient("The answer is $5$ or $6$.", Problem(id="p", question="", answer="5,6")).correct
    assert lenient("it is sqrt(2)", Problem(id="p", question="", answer="\\sqrt{2}")).correct


def test_a_gold_answer_that_no_parser_reads_is_reported() -> None:
    unread = Problem(id="p", question="", answer="\\heartsuit(x^{2}")
    assert strict(r"\boxed{y+z}", unread).parts["gold_unread"] == 1
    assert strict(r"\boxed{\heartsuit(x^{2}}", unread).parts["gold_unread"] == 0
    assert strict(r"\boxed{\det(y)}", Problem(id="p", question="", answer="x+y")).parts["gold_unread"] == 0


def test_strict_values_are_keywords() -> None:
    assert strict("", PROBLEM, unboxed=-0.1).reward == -0.1
    assert strict(r"\boxed{9}", PROBLEM, wrong=0.25).reward == 0.25
    assert strict(r"\boxed{1/2}", PROBLEM, correct=2).reward == 2
    assert strict(r"\boxed{1/2}", PROBLEM, rule="exact").status == "different"
    assert strict(r"\fbox{1/2}", PROBLEM, fbox=True).status == "equal"


def test_lenient_cases_after_public_reports(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "cases/grading_lenient.jsonl").read_text().splitlines()]
    scores = [lenient(row["response"], Problem(row["id"], "", row["answer"])) for row in rows]
    wrong = [row["id"] for row, score in zip(rows, scores, strict=True) if score.correct != row["expected"]]
    assert wrong == []
    assert {score.status for score in scores} <= {"equal", "different", "no_answer"}
