"""When a response is over, and what its text is."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from simplerl.types import Stop

_SLACK = 8  # tokens before the shortest window that could hold a stop string


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a response; special tokens are written out, so that nothing generated is hidden."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):  # its own decode spends more on wrapping than on decoding
        return tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first occurrence of any of the strings."""
    places = [place for place in map(text.find, strings) if place >= 0]
    return text[: min(places)] if places else text


class StopRule:
    """Recognises the end of responses of one tokenizer.

    A stop string can only be complete after a token that holds its last character, so only such
    tokens (`enders`) cost a look at the text, and the look is at the last few tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> None:
        self.tokenizer = tokenizer
        self.ids = frozenset(stop.ids)
        self.strings = stop.strings
        self.enders = _enders(tokenizer, stop.strings) if stop.strings else frozenset()
        self.watched = self.ids | self.enders
        self._window = max((len(string.encode()) for string in stop.strings), default=0) + _SLACK

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether a response whose earlier tokens did not end it ends with its last token, which is in `watched`."""
        if tokens[-1] in self.ids:
            return True
        tail = decode(self.tokenizer, tokens[-self._window :])
        return any(string in tail for string in self.strings)

    def text(self, tokens: Sequence[int]) -> str:
        """A finished response without its stop token, cut at the first stop string."""
        body = tokens[:-1] if tokens and tokens[-1] in self.ids else tokens
        return cut(decode(self.tokenizer, body), self.strings)


def _enders(tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> frozenset[int]:
    """Tokens that may hold the last character of a stop string.

    Decoded alone, a token may lose its leading space or be part of a character: where that could
    hide the last character, the token counts as one that may hold it.
    """
    last = {string[-1] for string in strings}
    if any(character.isspace() for character in last):
        return frozenset(range(len(tokenizer)))
    split = any(not character.isascii() for character in last)
    pieces = tokenizer.batch_decode(
        [[index] for index in range(len(tokenizer))], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return frozenset(
        index
        for index, piece in enumerate(pieces)
        if not piece or not last.isdisjoint(piece) or (split and "\ufffd" in piece)
    )
