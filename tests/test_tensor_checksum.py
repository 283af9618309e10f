"""The checksum that verifies copies of weights."""

from __future__ import annotations

import pytest
import torch

from simplerl.engine.tensors import tensor_checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("position", [0, 1, 2**20 - 1, 2**20, 2**21 + 16])
def test_one_changed_bit_changes_the_checksum(dtype: torch.dtype, position: int) -> None:
    weight = torch.randn(2**21 + 17, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = tensor_checksum(weight)
    integers = weight.view(torch.int32 if dtype is torch.float32 else torch.int16)
    integers[position] ^= 1
    assert tensor_checksum(weight) != before
    integers[position] ^= 1
    assert tensor_checksum(weight) == before


def test_order_and_size_matter_and_memory_layout_does_not() -> None:
    weight = torch.randn(37, 53)
    assert (
        tensor_checksum(weight) == tensor_checksum(weight.t().contiguous().t()) == tensor_checksum(weight.reshape(-1))
    )
    assert tensor_checksum(weight) != tensor_checksum(weight.t())
    assert tensor_checksum(weight) != tensor_checksum(
        weight[torch.randperm(37, generator=torch.Generator().manual_seed(1))]
    )
    assert tensor_checksum(torch.zeros(8)) != tensor_checksum(torch.zeros(9))


def test_signed_zeros_and_subnormals_count_as_zero() -> None:
    assert tensor_checksum(torch.tensor([0.0, 0.0, 1.0])) == tensor_checksum(torch.tensor([-0.0, 1e-41, 1.0]))
