"""Detects the end of a response (stop token ids and stop strings) and decodes its text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from simplerl.types import Stop

_EXTRA_TOKENS = 8  # decoded in addition to the shortest window that could contain a stop string


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode a response, keeping special tokens so that everything generated is visible."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):  # its own `decode` spends most of its time on wrapping
        return tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def truncate_at_stop_string(text: str, strings: Sequence[str]) -> str:
    """Return the text before the first occurrence of any of the strings."""
    found = [position for position in map(text.find, strings) if position >= 0]
    return text[: min(found)] if found else text


class StopRule:
    """Decides when a response ends, for one tokenizer and one set of stop ids and stop strings.

    A stop string can only be completed by a token that contains its last character. Such tokens (`string_ends`) are
    found in advance, so that only they require decoding, and only of the last few tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> None:
        self.tokenizer = tokenizer
        self.ids = frozenset(stop.ids)
        self.strings = stop.strings
        self.string_ends = _tokens_that_may_complete(tokenizer, stop.strings) if stop.strings else frozenset()
        self.possible_ends = self.ids | self.string_ends
        self._window = max((len(string.encode()) for string in stop.strings), default=0) + _EXTRA_TOKENS

    def reached(self, tokens: Sequence[int]) -> bool:
        """Return whether the last token ends the response; only valid if that token is in `possible_ends` and no
        earlier token ended the response."""
        if tokens[-1] in self.ids:
            return True
        tail = decode(self.tokenizer, tokens[-self._window :])
        return any(string in tail for string in self.strings)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode a finished response without its stop token, truncated at the first stop string."""
        body = tokens[:-1] if tokens and tokens[-1] in self.ids else tokens
        return truncate_at_stop_string(decode(self.tokenizer, body), self.strings)


def _tokens_that_may_complete(tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> frozenset[int]:
    """Return the tokens that may contain the last character of a stop string.

    Decoded alone, a token may lose its leading space or be an incomplete UTF-8 character; if that could hide the last
    character of a stop string, the token is included.
    """
    last = {string[-1] for string in strings}
    if any(character.isspace() for character in last):
        return frozenset(range(len(tokenizer)))
    multibyte = any(not character.isascii() for character in last)
    pieces = tokenizer.batch_decode(
        [[index] for index in range(len(tokenizer))], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return frozenset(
        index
        for index, piece in enumerate(pieces)
        if not piece or not last.isdisjoint(piece) or (multibyte and "\ufffd" in piece)
    )
