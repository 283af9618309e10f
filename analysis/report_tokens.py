"""Aligns the tokens of a response with its text, for the report's view of log-probs per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from simplerl.errors import ConfigError
from simplerl.io.files import read_yaml
from simplerl.runs.rollout_table import TRAINER_LOGPROBS

TOKENS = ("tokens", "logprobs", TRAINER_LOGPROBS)
LOGPROB_STEPS, GAP_STEPS = 50, 1000  # units per nat of the integers in a page, as in page/browser.js
MAX_NATS = 20.0


def token_columns(file: Path) -> list[str]:
    """Return the per-token columns that a file of responses has."""
    names = set(pq.read_schema(file).names)
    return [name for name in TOKENS if name in names]


class TokenTexts:
    """Splits responses of a run into the texts of their tokens, by the tokenizer of its newest checkpoint or, without
    one, of its model if that is a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pieces: dict[int, str] = {}

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        found = sorted(self._folder.glob("checkpoints/*/policy/tokenizer.json"))
        try:
            model = Path(str(read_yaml(self._folder / "config.yaml").get("model", {}).get("path", "")))
        except (ConfigError, AttributeError):
            model = Path()
        path = found[-1] if found else model / "tokenizer.json"
        return Tokenizer.from_file(str(path)) if path.is_file() else None

    def of(self, text: str, columns: Mapping[str, Sequence[Any] | None]) -> dict[str, Any]:
        """Return what the page shows of a response's tokens: `pieces`, the length in characters of each, `after`, what
        follows the text, such as the stop token, and the log-probs and gaps as integers; {} if they are unknown."""
        tokens, sampled = columns.get("tokens"), columns.get("logprobs")
        if self._tokenizer is None or not tokens or not sampled or len(tokens) != len(sampled):
            return {}
        pieces = self._split(self._tokenizer, tokens, text)
        whole = "".join(pieces)
        if not whole.startswith(text):
            return {}
        lengths = [len(one) if one.isascii() else len(one.encode("utf-16-le")) // 2 for one in pieces]  # as JavaScript
        surprise = np.clip(-np.asarray(sampled, dtype=np.float64), 0.0, MAX_NATS)
        found = {"pieces": lengths, "after": whole[len(text) :], "logprobs": _steps(surprise, LOGPROB_STEPS)}
        trained = columns.get(TRAINER_LOGPROBS)
        if trained and len(trained) == len(sampled):
            found["gaps"] = _steps(np.subtract(trained, sampled), GAP_STEPS)
        return found

    def _split(self, tokenizer: Tokenizer, tokens: Sequence[int], text: str) -> list[str]:
        """Return the text of each token: decoded alone, which is fast, if these texts make up `text`."""
        for token in set(tokens) - self._pieces.keys():
            self._pieces[token] = tokenizer.decode([token], skip_special_tokens=False)
        alone = [self._pieces[token] for token in tokens]
        return alone if "".join(alone).startswith(text) else split_text(tokenizer, tokens)


def _steps(nats: np.ndarray, per_nat: int) -> list[int]:
    found: list[int] = np.rint(per_nat * nats).astype(int).tolist()
    return found


def split_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Return the text of each token; a token that ends within a character has "", and the text is that of the token
    that completes the character."""
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, token) or "" for token in tokens]
