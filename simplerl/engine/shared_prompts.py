"""Computes each prompt of a micro-batch once for all responses to it.

A plain forward pass computes [prompt; response] for every row, so a group of G samples computes its prompt G times.
Here the micro-batch is one sequence of N tokens: the distinct prompts, then all responses in right-padded blocks of
similar length. Everything but attention treats tokens separately and needs no change. In attention, a prompt attends to
itself, and a response to its prompt and itself (as in PrefixGrouper, arXiv:2506.05433), so the result is that of the
plain pass up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from simplerl.engine.batching import MAX_PADDING, micro_batches
from simplerl.types import Batch

WORTHWHILE = 0.8  # shared prompts are used where they compute at most this fraction of the plain pass's tokens


@dataclass(frozen=True)
class Block:
    """Describes responses that are padded to `length` tokens each: rows of [rows, length], stored row by row in the
    sequence from index `start` on."""

    start: int
    length: int
    prompt: Tensor  # [rows] int64: index of the prompt of each response
    prompt_width: int  # length of the longest of these prompts
    visible: Tensor  # [rows, 1, length, prompt_width + length] bool: keys that each query attends to


@dataclass(frozen=True)
class SharedPrompts:
    """Describes the sequence of N tokens of a micro-batch of b rows [b, T] with U distinct prompts."""

    tokens: Tensor  # [N] int64
    positions: Tensor  # [N] int64
    place: Tensor  # [b, T] int64: index of each row's token in the sequence; 0 for padding
    prompts: Tensor  # [U, P] int64: indices of the prompts' tokens, right-padded with 0
    real: Tensor  # [U, P] bool: False for padding
    blocks: tuple[Block, ...]
    real_tokens: int  # those of the N that are not padding

    def model_inputs(self) -> dict[str, Any]:
        """Return the arguments of a transformers model whose attention is `shared_prompt_attention`. The mask is not
        read: one with four dimensions keeps transformers from building one of [N, N]."""
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.tokens.device)
        inputs = {"input_ids": self.tokens[None], "position_ids": self.positions[None]}
        return {**inputs, "attention_mask": mask, "shared_prompts": self}

    def to(self, device: torch.device | str) -> SharedPrompts:
        """Return a copy on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        blocks = [replace(b, prompt=b.prompt.to(device), visible=b.visible.to(device)) for b in self.blocks]
        return replace(self, **moved, blocks=tuple(blocks))


@dataclass(frozen=True)
class MicroBatch:
    """Holds rows of a batch for one forward pass, on the CPU."""

    rows: Tensor  # their indices in the batch; empty for rows that only keep the ranks' passes equal in number
    batch: Batch
    shared: SharedPrompts | None = None  # how each prompt is computed once; None: every row computes its own

    @property
    def computed(self) -> int:
        """Return the number of tokens of the forward pass, padding included."""
        return self.batch.tokens.numel() if self.shared is None else len(self.shared.tokens)

    @property
    def real(self) -> int:
        """Return the number of tokens of the forward pass that are not padding."""
        return int(self.batch.attention.sum()) if self.shared is None else self.shared.real_tokens


def split(batch: Batch, tokens: int, shared: bool | None) -> list[MicroBatch]:
    """Split a batch on the CPU into micro-batches of at most `tokens` computed tokens. shared: share prompts always
    (True), never (False), or where that saves enough tokens (None)."""
    parts = None if shared is False else shared_micro_batches(batch, tokens, always=shared is True)
    if parts is None:
        return [MicroBatch(rows, batch.rows(rows)) for rows in micro_batches(batch.attention.sum(-1), tokens)]
    return [MicroBatch(rows, micro := batch.rows(rows), shared_prompts(micro)) for rows in parts]


def prompt_numbers(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the number of prompt tokens of each row [B], and the index of the first row with the same prompt [B].
    Rows without response tokens have no prompt to share."""
    lengths = torch.where(batch.mask.any(-1), batch.mask.int().argmax(-1), batch.attention.sum(-1))
    first: dict[bytes, int] = {}
    rows = [batch.tokens[row, :length].numpy().tobytes() for row, length in enumerate(lengths.tolist())]
    return lengths, torch.tensor([first.setdefault(prompt, row) for row, prompt in enumerate(rows)])


def shared_micro_batches(batch: Batch, tokens: int, always: bool = False) -> list[Tensor] | None:
    """Split the rows of a batch on the CPU into micro-batches of at most `tokens` computed tokens, in which each prompt
    counts once. A single longer row gets its own micro-batch. Returns the row indices of each micro-batch. Returns None
    if a row has no response or, unless `always`, if shared prompts would not save 1 - WORTHWHILE of the tokens."""
    prompt_lengths, first = prompt_numbers(batch)
    responses = batch.attention.sum(-1) - prompt_lengths
    plain = int(batch.attention.sum())
    shared = int(responses.sum() + prompt_lengths[first.unique()].sum())
    if (shared > WORTHWHILE * plain and not always) or bool((responses == 0).any()):
        return None
    longest = torch.zeros_like(responses).scatter_reduce(0, first, responses, "amax")
    # Groups with long responses first, so that a micro-batch has responses of similar lengths; stable within a group.
    order = sorted(range(len(batch)), key=lambda row: (-int(longest[first[row]]), int(first[row]), row))
    limit = tokens / (1 + MAX_PADDING)  # blocks are padded
    parts: list[list[int]] = []
    size, known = 0, set[int]()
    for row in order:
        prompt = int(first[row])
        cost = int(responses[row]) + (0 if prompt in known else int(prompt_lengths[row]))
        if not parts or size + cost > limit:
            parts.append([])
            size, known, cost = 0, set(), int(responses[row] + prompt_lengths[row])
        parts[-1].append(row)
        known.add(prompt)
        size += cost
    return [torch.tensor(part) for part in parts]


def shared_prompts(micro: Batch) -> SharedPrompts:
    """Lay out a micro-batch on the CPU, all of whose rows have a response."""
    prompt_lengths, first = prompt_numbers(micro)
    lengths = micro.attention.sum(-1)
    place = torch.zeros(micro.tokens.shape, dtype=torch.int64)
    owners = first.unique().tolist()
    width = int(prompt_lengths.max())
    prompts, real = (
        torch.zeros(len(owners), width, dtype=torch.int64),
        torch.zeros(len(owners), width, dtype=torch.bool),
    )
    end = 0
    for index, row in enumerate(owners):
        length = int(prompt_lengths[row])
        prompts[index, :length] = torch.arange(end, end + length)
        real[index, :length] = True
        place[first == row, :length] = prompts[index, :length]
        end += length
    index_of = {row: index for index, row in enumerate(owners)}
    blocks = []
    for rows in micro_batches(lengths - prompt_lengths, len(micro) * micro.tokens.shape[1]):
        longest = int((lengths - prompt_lengths)[rows].max())
        for number, row in enumerate(rows.tolist()):
            begin, length = int(prompt_lengths[row]), int(lengths[row])
            start = end + number * longest
            place[row, begin:length] = torch.arange(start, start + length - begin)
        prompt = torch.tensor([index_of[int(first[row])] for row in rows])
        blocks.append(_block(end, longest, prompt, prompt_lengths[rows]))
        end += len(rows) * longest
    tokens, positions = torch.zeros(end, dtype=torch.int64), torch.zeros(end, dtype=torch.int64)
    at = place[micro.attention]
    tokens[at] = micro.tokens[micro.attention]
    positions[at] = torch.arange(micro.tokens.shape[1]).expand_as(place)[micro.attention]
    return SharedPrompts(tokens, positions, place, prompts, real, tuple(blocks), len(at.unique()))


def _block(start: int, length: int, prompt: Tensor, prompt_lengths: Tensor) -> Block:
    width = int(prompt_lengths.max())
    visible = torch.ones(len(prompt), 1, length, width + length, dtype=torch.bool)
    visible[..., :width] = (torch.arange(width) < prompt_lengths[:, None])[:, None, None]
    visible[..., width:] = torch.ones(length, length, dtype=torch.bool).tril()
    return Block(start, length, prompt, width, visible)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def shared_prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: SharedPrompts, scale: float | None = None
) -> Tensor:
    """Compute the attention of a micro-batch with shared prompts. query is [1, heads, N, D], key and value [1, key
    heads, N, D]. Returns [1, N, heads, D]. scale: of the scores; None: 1 / sqrt(D)."""
    attend = nn.functional.scaled_dot_product_attention
    options: dict[str, Any] = {"scale": scale, "enable_gqa": query.shape[1] != key.shape[1]}
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, D]
    q, prompt_keys, prompt_values = (x[layout.prompts].transpose(1, 2) for x in (queries, keys, values))
    own = attend(q, prompt_keys, prompt_values, is_causal=True, **options)  # [U, heads, P, D]
    outputs = [own.transpose(1, 2)[layout.real]]
    for block in layout.blocks:
        at = slice(block.start, block.start + len(block.prompt) * block.length)
        q, k, v = (x[at].unflatten(0, (-1, block.length)).transpose(1, 2) for x in (queries, keys, values))
        k, v = (
            torch.cat([prompt[block.prompt, :, : block.prompt_width], response], 2)
            for prompt, response in ((prompt_keys, k), (prompt_values, v))
        )
        outputs.append(attend(q, k, v, attn_mask=block.visible, **options).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]
