"""The micro world's tokenizer: a fixed list of pieces, longest match first, and bytes for the rest.

Digits are tokens of their own, so that arithmetic is done digit by digit. It is a Qwen2 tokenizer whose byte-level
BPE has no merges and whose pieces are added tokens: transformers gives every model of type qwen2 that class, whatever
its files say. Every text round-trips.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

EOS = "<|endoftext|>"
FRAME = ("<|im_start|>", "<|im_end|>")
_WORDS_TEXT = (
    "What is |Compute |Find |Work out |Calculate |Evaluate |Simplify |Practice|First |Then | = | + | - | * |"
    "The answer is |\\boxed{|wait|, |recheck|rethink|try again|retry|alternatively|however|: | or |? |same|different|"
    "keep |use |```|python|def |solve|()|    |print|return |assert | >= 0|result| # the|# |add |subtract |multiply |"
    " get |Let me| think| about| this|We| can| look| at| the|Maybe| add| some| of| is|It| not| easy| to| see| have|"
    " so| on| big| also|The| number| numbers| result| and"
)
_WORDS = _WORDS_TEXT.split("|")
_BYTES = tuple(map(chr, range(256)))
PIECES = (EOS, *_BYTES, *FRAME, *_WORDS)  # by token id; a byte stands as the Latin-1 character of its value
EOS_ID = 0


@cache
def _ids() -> tuple[re.Pattern[str], dict[str, int]]:
    found = sorted((EOS, *FRAME, *_WORDS), key=lambda piece: (-len(piece), piece))
    pattern = re.compile("|".join(map(re.escape, found)) + "|.", re.DOTALL)
    return pattern, {piece: index for index, piece in enumerate(PIECES)}


def encode(text: str) -> list[int]:
    """The tokens of an ASCII text; the same as the Hugging Face tokenizer's, without its import."""
    pattern, ids = _ids()
    return [ids[piece] for piece in pattern.findall(text)]


def build() -> Qwen2Tokenizer:
    """The tokenizer as a Hugging Face object; `save_pretrained` writes tokenizer.json."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    names = bytes_to_unicode()
    vocabulary = {EOS: EOS_ID} | {names[byte]: byte + 1 for byte in range(256)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token=EOS,
        eos_token=EOS,
        pad_token=EOS,
        additional_special_tokens=list(FRAME),
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        chat_template="{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}",
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in _WORDS])
    return tokenizer
