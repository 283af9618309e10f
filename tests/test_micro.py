"""The micro world: problems, corpus, tokenizer and the base model that ships with the repository."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from simplerl.errors import ConfigError
from simplerl.micro import corpus, tokenizer, world

BASE = Path(__file__).resolve().parent.parent / "assets" / "micro_base"


def expression_in(question: str) -> str:
    wording = next(w for w in world.WORDINGS if question.startswith(w.split("{}")[0]))
    before, after = wording.split("{}")
    return question[len(before) : len(question) - len(after)]


def test_steps_follow_the_order_of_evaluation():
    item = world.Expression((23, 59, 78, 4), ("+", "*", "-"))
    assert str(item) == "23 + 59 * 78 - 4"
    assert [(str(step), value) for step, value in item.steps()] == [
        ("59 * 78", 4602),
        ("23 + 4602", 4625),
        ("4625 - 4", 4621),
    ]
    bracketed = world.Expression((60, 5, 7), ("*", "+"), (1, 3))
    assert str(bracketed) == "60 * (5 + 7)"
    assert [str(step) for step, _ in bracketed.steps()] == ["5 + 7", "60 * 12"]


def test_later_steps_use_the_value_of_a_slip():
    item = world.Expression((23, 59, 78), ("+", "*"))
    assert [(str(step), value) for step, value in item.steps({0: 4612})] == [("59 * 78", 4612), ("23 + 4612", 4635)]


@pytest.mark.parametrize("seed", [0, 1])
def test_problems_are_correct_different_and_in_range(seed):
    problems = world.problems("rl", 300, seed)
    assert len({problem.id for problem in problems}) == len({p.question for p in problems}) == 300
    for problem in problems:
        text = expression_in(problem.question)
        assert re.fullmatch(r"[-+*() 0-9]+", text)
        assert int(problem.answer) == eval(text)
        assert 0 <= int(problem.answer) <= world.LARGEST
    hard = sum("h" in str(problem.level) for problem in problems) / 300
    assert abs(hard - world.HARD_FRACTION) < 0.1


def test_levels_keep_their_problems_and_solutions_are_correct() -> None:
    """The problems of a level are asked in the same words as among all, and solutions end with the boxed answer."""
    hard = world.problems("rl", 40, levels=["2h", "3h"])
    assert {problem.level for problem in hard} == {"2h", "3h"} and len({one.question for one in hard}) == 40
    easy = world.problems("rl", 20, levels=[2])  # type: ignore[list-item]  # as YAML reads a number
    assert {problem.level for problem in easy} == {"2"}
    for wrong in (["4"], []):
        with pytest.raises(ConfigError, match="must name some of 2, 2h, 3, 3h"):
            world.problems("rl", 1, levels=wrong)
    for plain, solved in zip(hard, corpus.solved_problems(40, levels=["2h", "3h"]), strict=True):
        assert replace(solved, solution=None) == plain and solved.solution is not None
        *steps, last = solved.solution.splitlines()
        assert last == f"The answer is \\boxed{{{plain.answer}}}" and steps[-1].endswith(f"= {plain.answer}")


def test_problems_are_a_function_of_their_seed():
    assert world.problems("heldout", 50, 3) == world.problems("heldout", 50, 3)
    assert world.problems("heldout", 50, 3)[:20] == world.problems("heldout", 20, 3)
    assert world.problems("heldout", 50, 3) != world.problems("heldout", 50, 4)
    with pytest.raises(ValueError, match="unknown split=test"):
        world.problems("test", 1)


def test_splits_are_disjoint():
    found = {name: {expression_in(p.question) for p in world.problems(name, 400)} for name in world.SPLITS}
    for name, texts in found.items():
        assert {world.split_of(text) for text in texts} == {name}
    corpus_texts = {
        expression_in(d.prompt.strip()) for d in islice(corpus.documents(0), 2000) if d.style != corpus.DRILL
    }
    assert {world.split_of(text) for text in corpus_texts} == {"pretrain"}


def test_corpus_is_deterministic_and_mixed():
    documents = list(islice(corpus.documents(5), 3000))
    assert documents == list(islice(corpus.documents(5), 3000))
    answers = [d for d in documents if d.style != corpus.DRILL]
    fraction = {s: sum(d.style == s for d in answers) / len(answers) for s in (corpus.QUICK, corpus.CODE, corpus.CHECK)}
    assert 0.4 < fraction[corpus.QUICK] < 0.6
    assert 0.2 < fraction[corpus.CODE] < 0.35
    assert 0.02 < fraction[corpus.CHECK] < 0.09


def test_answers_are_correct_unless_they_contain_a_slip():
    for document in islice(corpus.documents(7), 3000):
        if document.final is None:
            continue
        assert document.value == eval(expression_in(document.prompt.strip()))
        if document.slips == 0:
            assert document.final == document.value
        start, stop = document.given
        assert document.answer[start:stop].isdigit() == (document.style == corpus.CHECK)
        ending = f"\\boxed{{{document.final}}}" if "\\boxed" in document.answer else f"is {document.final}"
        assert document.answer.endswith(ending)
        if document.style == corpus.CHECK:
            assert document.slips == 0
            assert "wait, " in document.answer
        else:
            assert "wait" not in document.answer


def test_drills_and_worked_products_are_correct():
    rng = Random(0)
    lines = "\n".join(corpus.drill(rng).answer for _ in range(300)).split("\n")
    for line in lines:
        if "?" in line:
            new, old = map(int, re.findall(r"\d+", line)[:2])
            assert line == f"{new} or {old}? " + (f"same, keep {new}" if new == old else f"different, use {new}")
        else:
            left, right = line.split(" = ")
            assert eval(left) == int(right) >= 0
    parts = [(str(part), part.value) for part in corpus.worked(world.Step(59, "*", 78))]
    assert parts == [("59 * 70", 4130), ("59 * 8", 472), ("4130 + 472", 4602)]


def test_programs_compute_the_answer():
    rng = Random(1)
    for _ in range(20):
        item = world.expression(rng)
        code = corpus.code_answer(rng, item).answer
        assert "boxed" not in code
        assert code.startswith("```python\n")
        assert code.endswith("\n```")
        scope: dict[str, object] = {"print": lambda value: None}
        exec(code.removeprefix("```python\n").removesuffix("\n```"), scope)
        assert scope["result"] == item.value


def test_corpus_as_problems_for_fine_tuning():
    problems = corpus.problems(50, seed=2)
    assert len(problems) == 50
    assert all(problem.solution for problem in problems)
    assert {world.split_of(expression_in(problem.question)) for problem in problems} == {"pretrain"}


def test_tokenizer_round_trips():
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(BASE)
    texts = [d.prompt + d.answer for d in islice(corpus.documents(9), 300)]
    texts += ["x = {'a': [1, 2]}\n\n\tand", "".join(map(chr, range(127)))]
    for text in texts:
        ids = loaded(text)["input_ids"]
        assert ids == tokenizer.encode(text) == tokenizer.build()(text)["input_ids"]
        assert loaded.decode(ids) == text
    other = "caf\u00e9 \u221e <|im_start|>user"
    assert loaded.decode(loaded(other)["input_ids"]) == other
    assert [loaded.decode([i]) for i in loaded("1203")["input_ids"]] == ["1", "2", "0", "3"]
    assert len(loaded) == len(tokenizer.TOKENS)
    assert loaded.eos_token == loaded.pad_token == "<|endoftext|>"


def test_tokens_never_span_prompt_and_answer():
    for document in islice(corpus.documents(11), 300):
        whole = tokenizer.encode(document.prompt + document.answer)
        assert whole == tokenizer.encode(document.prompt) + tokenizer.encode(document.answer)


def test_shipped_model_loads_small_and_finite():
    import torch
    from transformers import AutoModelForCausalLM

    assert sum(file.stat().st_size for file in BASE.iterdir()) < 6e6
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    assert model.config.model_type == "qwen2"
    assert model.generation_config.eos_token_id == 0
    assert model.config.vocab_size == len(tokenizer.TOKENS)
    ids = torch.tensor([tokenizer.encode("What is 2 + 3 * 4?\n")])
    with torch.no_grad():
        probabilities = model(ids).logits[0, -1].softmax(-1)
    first_tokens = {tokenizer.TOKENS[int(i)]: float(p) for p, i in zip(*probabilities.topk(3), strict=True)}
    assert set(first_tokens) == {"First ", "```", "Let me"}
    assert sum(first_tokens.values()) > 0.99


def test_training_targets_are_answers_and_drills_only():
    from simplerl.micro import pretrain

    for tokens, targets in islice(pretrain.batches(0), 20):
        assert tokens.shape == targets.shape
        assert tokens.shape[1] in pretrain.WIDTHS
        for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
            text = "".join(tokenizer.TOKENS[i] for i in row)
            learned = [(i, t) for i, t in enumerate(target) if t >= 0]
            assert all(row[i + 1] == t for i, t in learned if i + 1 < len(row))
            before_first_target = "Practice" if text.startswith("Practice") else "\n"
            assert tokenizer.TOKENS[row[learned[0][0]]] == before_first_target


def test_self_checks_are_recognised_in_responses():
    from simplerl.micro import report

    good = "First 59 * 78 = 4612\nwait, recheck: 59 * 70 = 4130\n59 * 8 = 472\n4130 + 472 = 4602\n"
    good += "4602 or 4612? different, use 4602\nThen 23 + 4602 = 4625\nThe answer is \\boxed{4625}"
    bare = "First 59 * 78 = 4602\nThen 23 + 4602 = 4625\nThe answer is \\boxed{4625}"
    found = report.self_check([good, bare])
    assert found["hard_products"] == 2
    assert found["first_value_correct"] == 0.5
    assert found["checked_when_wrong"] == 1.0
    assert found["checked_when_correct"] == 0.0
    assert found["says_different_when_wrong"] == 1.0
    assert found["repaired_when_wrong"] == 1.0
    assert found["spoilt_when_correct"] is None
    texts = {good: "check", bare: "quick", "```python": "code", "Let me": "ramble"}
    assert {text: report.style_of(text) for text in texts} == texts


def test_more_problems_than_there_are_end_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "MAX_REPEATS", 4)
    with pytest.raises(ConfigError, match=r"data\.count=500 exceeds .* lower it to (\d+)\.") as caught:
        world.problems("rl", 500, levels=["3h"])
    found = int(str(caught.value).rstrip(".").split()[-1])
    assert len(world.problems("rl", found, levels=["3h"])) == found > 0
