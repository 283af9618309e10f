"""Defines the micro world's tokenizer: a fixed vocabulary, matched longest first, with bytes for all other text.

Each digit is a token, so that arithmetic is done digit by digit. The tokenizer is a Qwen2 tokenizer whose byte-level
BPE has no merges and whose words are added tokens, because transformers uses that class for every model of type qwen2.
Encoding and decoding round-trips every text.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

EOS = "<|endoftext|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
_WORDS_TEXT = (
    "What is |Compute |Find |Work out |Calculate |Evaluate |Simplify |Practice|First |Then | = | + | - | * |"
    "The answer is |\\boxed{|wait|, |recheck|rethink|try again|retry|alternatively|however|: | or |? |same|different|"
    "keep |use |```|python|def |solve|()|    |print|return |assert | >= 0|result| # the|# |add |subtract |multiply |"
    " get |Let me| think| about| this|We| can| look| at| the|Maybe| add| some| of| is|It| not| easy| to| see| have|"
    " so| on| big| also|The| number| numbers| result| and"
)
_WORDS = _WORDS_TEXT.split("|")
_BYTES = tuple(map(chr, range(256)))
TOKENS = (EOS, *_BYTES, *CHAT_TOKENS, *_WORDS)  # by id; a byte is represented by the Latin-1 character with its value
EOS_ID = 0


@cache
def _pattern_and_ids() -> tuple[re.Pattern[str], dict[str, int]]:
    words = sorted((EOS, *CHAT_TOKENS, *_WORDS), key=lambda word: (-len(word), word))
    pattern = re.compile("|".join(map(re.escape, words)) + "|.", re.DOTALL)
    return pattern, {token: index for index, token in enumerate(TOKENS)}


def encode(text: str) -> list[int]:
    """Return the token ids of an ASCII text, the same as those of `build()`, without importing transformers."""
    pattern, ids = _pattern_and_ids()
    return [ids[token] for token in pattern.findall(text)]


def build() -> Qwen2Tokenizer:
    """Return the Hugging Face tokenizer, whose `save_pretrained` writes tokenizer.json."""
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
        additional_special_tokens=list(CHAT_TOKENS),
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        chat_template="{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}",
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    return tokenizer
