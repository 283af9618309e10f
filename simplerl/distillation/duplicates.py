"""Finds near-duplicates among a teacher's answers, and their overlap with benchmark questions.

Near-duplicates are compared by all their words and symbols, because formulas distinguish answers. Overlap is found by
n-grams of words alone, as the symbols of LaTeX and of drawings would match everywhere: of the 8,523 MATH problems of
`data=math_8k`, 154 share 13 words with a question of MATH500, but 1,436 share 13 words and symbols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from simplerl.distillation.selection import Answer
from simplerl.errors import ConfigError
from simplerl.types import Problem

SHINGLE = 5  # words
PERMUTATIONS = 128  # of a MinHash
RECALL = (0.1, 0.9)  # weights of false positives, which are compared exactly, and of false negatives
INDEX_MARGIN = 0.1  # the index looks for a similarity that is lower by this much
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_SYMBOL = re.compile(r"[^\W_]+|[^\w\s]|_")
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)  # Asymptote code in MATH


def words_and_symbols(text: str) -> list[str]:
    """Return the words of a text, and each other character that is not white space, in lower case."""
    return _WORD_OR_SYMBOL.findall(text.lower())


def words(text: str) -> list[str]:
    """Return the words and numbers of a text without drawings in Asymptote ([asy]...[/asy]), in lower case."""
    return _WORD.findall(_DRAWING.sub(" ", text.lower()))


def ngrams(found: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """Return the n-grams of words; all words, if they are fewer than `size`; none for no words."""
    return set(zip(*(found[i:] for i in range(min(size, len(found)))), strict=False))


# Near-duplicates


class NearDuplicates:
    """Implements `simplerl.distillation.selection.Duplicates` by the Jaccard similarity of 5-grams.

    Answers to the same problem are compared by their responses; answers to different problems by question and response
    together, because a short response such as "The answer is 4." is correct for many questions. A MinHash index (Broder
    1997; datasketch) finds candidates, whose similarity is then computed exactly: of the answers with a similarity of
    0.8, it misses 0.2 %. The result is the same in every process.

    threshold: similarity from which an answer is a near-duplicate. Raises ConfigError if datasketch is missing."""

    def __init__(self, threshold: float) -> None:
        hashing = _datasketch()
        self.threshold = threshold
        self._empty = hashing.MinHash(num_perm=PERMUTATIONS, seed=1)
        self._index = hashing.MinHashLSH(
            threshold=max(threshold - INDEX_MARGIN, 0.1), num_perm=PERMUTATIONS, weights=RECALL
        )
        self._kept: list[Answer] = []
        self._hashed = lru_cache(maxsize=1)(self._hash)  # `add` follows `find`

    def _hash(self, answer: Answer) -> Any:
        made = self._empty.copy()
        grams = ngrams(words_and_symbols(f"{answer.question}\n{answer.response}"), SHINGLE)
        made.update_batch([" ".join(gram).encode() for gram in grams])
        return made

    def find(self, answer: Answer) -> Answer | None:
        """Return the first kept answer that is similar to `answer`, or None."""
        candidates = (self._kept[index] for index in sorted(self._index.query(self._hashed(answer))))
        return next((kept for kept in candidates if similarity(answer, kept) >= self.threshold), None)

    def add(self, answer: Answer) -> None:
        """Remember a kept answer."""
        self._index.insert(len(self._kept), self._hashed(answer))
        self._kept.append(answer)


def similarity(one: Answer, other: Answer) -> float:
    """Return the Jaccard similarity of two answers: of their responses, or of questions and responses if their problems
    differ."""
    same = one.problem_id == other.problem_id
    texts = (x.response if same else f"{x.question}\n{x.response}" for x in (one, other))
    a, b = (ngrams(words_and_symbols(text), SHINGLE) for text in texts)
    return len(a & b) / len(a | b) if a | b else 1.0


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError as error:
        raise ConfigError(
            "teacher.near_duplicates needs the package datasketch: run pip install datasketch, or set "
            "teacher.near_duplicates=null to keep near-duplicates."
        ) from error
    return datasketch


def check_available(threshold: float | None) -> None:
    """Raise ConfigError if `teacher.near_duplicates` is set to a similarity above 1, or without its package."""
    if threshold is not None:
        if threshold > 1:
            raise ConfigError(
                f"teacher.near_duplicates={threshold:g} must be at most 1, the similarity of equal texts."
            )
        _datasketch()


# Overlap with benchmarks


Gram = tuple[str, ...]


@dataclass(frozen=True)
class Benchmarks:
    """Holds the n-grams of `size` words of benchmark questions, of which an overlapping text has at least one. A
    question of fewer words overlaps only with a question of the same words and symbols. Build it with `benchmarks`."""

    size: int
    items: dict[str, int]  # benchmark -> number of its questions
    grams: dict[Gram, list[tuple[str, str]]] = field(repr=False)  # -> (benchmark, id) of its questions

    def in_question(self, question: str) -> set[tuple[str, str]]:
        """Return (benchmark, id) of the questions that overlap with a question."""
        return self._found(_question_grams(question, self.size))

    def in_response(self, response: str) -> set[tuple[str, str]]:
        """Return (benchmark, id) of the questions that overlap with a part of a response."""
        found = words(response)
        return self._found(ngrams(found, self.size)) if len(found) >= self.size else set()

    def _found(self, grams: Iterable[Gram]) -> set[tuple[str, str]]:
        return {item for gram in grams for item in self.grams.get(gram, ())}


def benchmarks(sets: Mapping[str, Sequence[Problem]], size: int) -> Benchmarks:
    """Return the n-grams of `size` words of the questions of each benchmark."""
    grams: dict[Gram, list[tuple[str, str]]] = {}
    for name, problems in sets.items():
        for problem in problems:
            for gram in _question_grams(problem.question, size):
                grams.setdefault(gram, []).append((name, problem.id))
    return Benchmarks(size, {name: len(problems) for name, problems in sets.items()}, grams)


def _question_grams(question: str, size: int) -> set[Gram]:
    found = words(question)
    return ngrams(found, size) if len(found) >= size else {("", *words_and_symbols(question))}
