"""What a model of the micro world does, measured on held-out questions:

    python -m simplerl.micro.report assets/micro_base

Greedy and sampled (temperature 1): accuracy with the answer boxed, shares of box, code and self-check, length in
tokens, accuracy by style; and of the self-check, whether it is begun after wrong steps more often than after
right ones, whether its verdict is right, and how often it repairs or spoils.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from statistics import fmean

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from simplerl.micro import corpus, world
from simplerl.types import Problem

_STEP = re.compile(r"^(?:First|Then) (\d+) ([-+*]) (\d+) = (-?\d+)$")
_VERDICT = re.compile(r"^(\d+) or (\d+)\? (?:same, keep|different, use) (\d+)$")
_BOX = re.compile(r"\\boxed\{(-?\d+)\}")


@torch.no_grad()
def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[Problem],
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 160,
) -> list[str]:
    """One response to each problem, without its end token."""
    torch.manual_seed(seed)
    tokenizer.padding_side = "left"
    inputs = tokenizer([f"{problem.question}\n" for problem in problems], return_tensors="pt", padding=True)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    out = model.generate(**inputs, max_new_tokens=max_new_tokens, **how)  # type: ignore[operator]
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def style_of(response: str) -> str:
    if "```" in response:
        return corpus.CODE
    if "wait" in response:
        return corpus.CHECK
    return corpus.QUICK if "\\boxed{" in response else corpus.RAMBLE


def boxed(response: str) -> str | None:
    found = _BOX.findall(response)
    return found[-1] if found else None


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(fmean(values), 4) if values else None


def summary(problems: list[Problem], responses: list[str], lengths: list[int]) -> dict[str, object]:
    """Shares, lengths and accuracies; right means that the boxed number is the answer."""
    styles = [style_of(response) for response in responses]
    right = [boxed(response) == problem.answer for problem, response in zip(problems, responses, strict=True)]
    by_style = {}
    for style in (corpus.QUICK, corpus.CHECK, corpus.CODE, corpus.RAMBLE):
        chosen = [i for i, name in enumerate(styles) if name == style]
        hard = [i for i in chosen if problems[i].level and "h" in str(problems[i].level)]
        by_style[style] = {
            "share": round(len(chosen) / len(styles), 4),
            "length": _mean(lengths[i] for i in chosen),
            "right": _mean(right[i] for i in chosen),
            "right_hard": _mean(right[i] for i in hard),
            "right_easy": _mean(right[i] for i in set(chosen) - set(hard)),
        }
    return {
        "accuracy": _mean(right),
        "box_share": _mean("\\boxed{" in response for response in responses),
        "length": _mean(lengths),
        "styles": by_style,
        "self_check": self_check(responses),
    }


def self_check(responses: list[str]) -> dict[str, object]:
    """Of every hard product that a response wrote in one go: was it right, was it followed by a check, and what
    did the check do with it."""
    seen: list[tuple[bool, bool]] = []  # (first value right, checked)
    verdicts: list[tuple[bool, bool, bool]] = []  # (first value right, says "same", value gone on with right)
    for response in responses:
        lines = response.split("\n")
        for index, line in enumerate(lines):
            match = _STEP.match(line)
            if not match:
                continue
            step = world.Step(int(match[1]), match[2], int(match[3]))
            if not step.hard:
                continue
            right = step.value == int(match[4])
            checked = index + 1 < len(lines) and lines[index + 1].startswith("wait")
            seen.append((right, checked))
            verdict = _VERDICT.match(lines[index + 4]) if checked and index + 4 < len(lines) else None
            if verdict:
                verdicts.append((right, "same" in verdict[0], int(verdict[3]) == step.value))
    return {
        "hard_products": len(seen),
        "first_value_right": _mean(right for right, _ in seen),
        "checked_when_wrong": _mean(checked for right, checked in seen if not right),
        "checked_when_right": _mean(checked for right, checked in seen if right),
        "verdicts": len(verdicts),
        "says_different_when_wrong": _mean(not same for right, same, _ in verdicts if not right),
        "says_different_when_right": _mean(not same for right, same, _ in verdicts if right),
        "repaired_when_wrong": _mean(good for right, _, good in verdicts if not right),
        "spoilt_when_right": _mean(not good for right, _, good in verdicts if right),
    }


def measure(path: str, count: int, temperature: float, seed: int = 0) -> dict[str, object]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    problems = world.problems("heldout", count)
    responses = respond(model, tokenizer, problems, temperature, seed)
    lengths = [len(ids) + 1 for ids in tokenizer(responses)["input_ids"]]
    return summary(problems, responses, lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a model of the micro world on held-out questions.")
    parser.add_argument("path", help="Hugging Face folder")
    parser.add_argument("--count", type=int, default=512, help="questions")
    parser.add_argument("--temperature", type=float, nargs="*", default=[0.0, 1.0])
    args = parser.parse_args()
    for temperature in args.temperature:
        print(json.dumps({"temperature": temperature, **measure(args.path, args.count, temperature)}, indent=1))


if __name__ == "__main__":
    main()
