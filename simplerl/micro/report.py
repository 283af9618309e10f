"""Evaluates a model of the micro world on held-out problems and prints the results as JSON:

    python -m simplerl.micro.report assets/micro_base

For greedy decoding and temperature 1: accuracy (boxed answers only), fractions of boxed, code and self-check responses,
length in tokens, and accuracy by style. For the self-check: whether it follows wrong steps more often than correct
ones, whether its comparison is correct, and how often it repairs or spoils a value.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from statistics import fmean

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from simplerl.micro import corpus, world
from simplerl.types import Problem

MAX_NEW_TOKENS = 160
_STEP = re.compile(r"^(?:First|Then) (\d+) ([-+*]) (\d+) = (-?\d+)$")
_COMPARISON = re.compile(r"^(\d+) or (\d+)\? (?:same, keep|different, use) (\d+)$")
_BOX = re.compile(r"\\boxed\{(-?\d+)\}")


@torch.no_grad()
def respond(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: list[Problem], temperature: float
) -> list[str]:
    """Generate one response to each problem, with the model's own `generate`; the end token is removed."""
    torch.manual_seed(0)
    tokenizer.padding_side = "left"
    inputs = tokenizer([f"{problem.question}\n" for problem in problems], return_tensors="pt", padding=True)
    options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    out = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **options)  # type: ignore[operator]
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def style_of(response: str) -> str:
    """Classify a response as one of the styles of the corpus."""
    if "```" in response:
        return corpus.CODE
    if "wait" in response:
        return corpus.CHECK
    return corpus.QUICK if "\\boxed{" in response else corpus.RAMBLE


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(fmean(values), 4) if values else None


def summary(problems: list[Problem], responses: list[str], lengths: list[int]) -> dict[str, object]:
    """Return fractions, mean lengths and accuracies, overall and by style; only boxed answers count as correct."""
    styles = [style_of(response) for response in responses]
    boxes = [_BOX.findall(response)[-1:] for response in responses]  # the last one, if any
    correct = [box == [problem.answer] for problem, box in zip(problems, boxes, strict=True)]
    by_style = {}
    for style in (corpus.QUICK, corpus.CHECK, corpus.CODE, corpus.RAMBLE):
        chosen = [i for i, name in enumerate(styles) if name == style]
        hard = [i for i in chosen if problems[i].level and "h" in str(problems[i].level)]
        by_style[style] = {
            "fraction": round(len(chosen) / len(styles), 4),
            "length": _mean(lengths[i] for i in chosen),
            "accuracy": _mean(correct[i] for i in chosen),
            "accuracy_hard": _mean(correct[i] for i in hard),
            "accuracy_easy": _mean(correct[i] for i in set(chosen) - set(hard)),
        }
    return {
        "accuracy": _mean(correct),
        "boxed_fraction": _mean("\\boxed{" in response for response in responses),
        "length": _mean(lengths),
        "styles": by_style,
        "self_check": self_check(responses),
    }


def self_check(responses: list[str]) -> dict[str, object]:
    """Return, over all hard products that responses write directly, how often the first value is correct, how often
    a check follows it, and what the check concludes and changes."""
    products: list[tuple[bool, bool]] = []  # (first value correct, checked)
    comparisons: list[tuple[bool, bool, bool]] = []  # (first value correct, says "same", value kept or used correct)
    for response in responses:
        lines = response.split("\n")
        for index, line in enumerate(lines):
            match = _STEP.match(line)
            if not match:
                continue
            step = world.Step(int(match[1]), match[2], int(match[3]))
            if not step.hard:
                continue
            correct = step.value == int(match[4])
            checked = index + 1 < len(lines) and lines[index + 1].startswith("wait")
            products.append((correct, checked))
            comparison = _COMPARISON.match(lines[index + 4]) if checked and index + 4 < len(lines) else None
            if comparison:
                comparisons.append((correct, "same" in comparison[0], int(comparison[3]) == step.value))
    return {
        "hard_products": len(products),
        "first_value_correct": _mean(correct for correct, _ in products),
        "checked_when_wrong": _mean(checked for correct, checked in products if not correct),
        "checked_when_correct": _mean(checked for correct, checked in products if correct),
        "comparisons": len(comparisons),
        "says_different_when_wrong": _mean(not same for correct, same, _ in comparisons if not correct),
        "says_different_when_correct": _mean(not same for correct, same, _ in comparisons if correct),
        "repaired_when_wrong": _mean(final for correct, _, final in comparisons if not correct),
        "spoilt_when_correct": _mean(not final for correct, _, final in comparisons if correct),
    }


def evaluate(path: str, count: int, temperature: float) -> dict[str, object]:
    """Return the `summary` of the model in a folder on `count` held-out problems."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    problems = world.problems("heldout", count)
    responses = respond(model, tokenizer, problems, temperature)
    lengths = [len(ids) + 1 for ids in tokenizer(responses)["input_ids"]]
    return summary(problems, responses, lengths)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Evaluate a model of the micro world on held-out problems.")
    parser.add_argument("path", help="Hugging Face folder of the model")
    parser.add_argument("--count", type=int, default=512, help="number of problems")
    parser.add_argument("--temperature", type=float, nargs="*", default=[0.0, 1.0], help="one or more; 0 is greedy")
    args = parser.parse_args(arguments)
    for temperature in args.temperature:
        print(json.dumps({"temperature": temperature, **evaluate(args.path, args.count, temperature)}, indent=1))


if __name__ == "__main__":
    main()
