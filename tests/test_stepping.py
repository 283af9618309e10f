"""Schedules by hand, AdamW against a NumPy AdamW, clipping, and the state on disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from simplerl.config import OptimizerConfig, Schedule
from simplerl.engine.optimizer import TorchStepper, learning_rate


def test_cosine_to_a_tenth_with_three_per_cent_warm_up() -> None:
    config = OptimizerConfig(lr=1.0, schedule=Schedule.cosine, warmup_fraction=0.03, min_lr_ratio=0.1)
    rates = [learning_rate(config, step, 200) for step in range(201)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    assert rates[6] == 1.0
    assert rates[103] == pytest.approx(0.55)  # half way through the cosine
    assert rates[200] == pytest.approx(0.1)
    step = 150
    assert rates[step] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 6) / 194)))
    assert rates[6:] == sorted(rates[6:], reverse=True)


def test_linear_and_constant() -> None:
    linear = OptimizerConfig(lr=2.0, schedule=Schedule.linear, warmup_fraction=0.0, min_lr_ratio=0.5)
    assert [learning_rate(linear, step, 4) for step in range(5)] == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0])
    constant = OptimizerConfig(lr=2.0, warmup_fraction=0.25)
    assert [learning_rate(constant, step, 8) for step in range(8)] == [1.0, 2.0] + [2.0] * 6


def test_warm_up_is_rounded_up_to_whole_steps() -> None:
    config = OptimizerConfig(lr=1.0, warmup_fraction=0.03)
    assert [learning_rate(config, step, 10) for step in range(3)] == [1.0, 1.0, 1.0]
    assert [learning_rate(config, step, 50) for step in range(3)] == [0.5, 1.0, 1.0]
    # 0.07 * 100 is 7.000000000000001 in floating point, and still seven steps.
    assert learning_rate(OptimizerConfig(lr=7.0, warmup_fraction=0.07), 0, 100) == pytest.approx(1.0)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.b = nn.Parameter(torch.tensor([[0.5, 0.25]]))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def gradients(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    return rng.normal(size=3) * 0.1, rng.normal(size=(1, 2)) * 0.1


def give(module: Pair, grads: tuple[np.ndarray, np.ndarray]) -> None:
    module.a.grad, module.b.grad = (torch.from_numpy(grad).float() for grad in grads)


CONFIG = OptimizerConfig(lr=0.1, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.01, grad_clip=100.0)


def test_adamw_against_numpy() -> None:
    """arXiv:1711.05101, algorithm 2."""
    module = Pair()
    stepper = TorchStepper(module, CONFIG, 20)
    weights = [module.a.detach().double().numpy().copy(), module.b.detach().double().numpy().copy()]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t in range(1, 9):
        give(module, gradients(t))
        stepper.step()
        for i, g in enumerate(gradients(t)):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.95 * v[i] + 0.05 * g**2
            update = (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.95**t)) + 1e-8)
            weights[i] = weights[i] - 0.1 * 0.01 * weights[i] - 0.1 * update
        np.testing.assert_allclose(module.a.detach().numpy(), weights[0], atol=2e-6)
        np.testing.assert_allclose(module.b.detach().numpy(), weights[1], atol=2e-6)
    assert torch.equal(module.frozen, torch.ones(2))


def test_gradients_are_clipped_by_their_global_norm() -> None:
    grads = np.array([3.0, 0.0, 0.0]), np.array([[0.0, 4.0]])
    config = OptimizerConfig(lr=1.0, betas=[0.0, 0.0], eps=1.0, grad_clip=1.0)
    module = Pair()
    give(module, grads)
    assert TorchStepper(module, config, 1).step() == {"grad_norm": pytest.approx(5.0), "lr": 1.0}
    # Without memory AdamW moves by g / (|g| + eps): the clipped gradient is (0.6, 0.8).
    assert float(module.a.detach()[0]) == pytest.approx(1.0 - 0.6 / 1.6, abs=1e-5)
    assert float(module.b.detach()[0, 1]) == pytest.approx(0.25 - 0.8 / 1.8, abs=1e-5)


def test_gradients_do_not_carry_over() -> None:
    module = Pair()
    stepper = TorchStepper(module, CONFIG, 5)
    give(module, gradients(0))
    stepper.step()
    assert module.a.grad is None and module.b.grad is None


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    module = Pair()
    stepper = TorchStepper(module, CONFIG, 5)
    give(module, (np.array([1.0, np.nan, 1.0]), np.zeros((1, 2))))
    before = [p.clone() for p in module.parameters()]
    assert math.isnan(stepper.step()["grad_norm"])
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert stepper.step_count == 0 and not stepper.optimizer.state


@pytest.mark.parametrize("saved_at", [0, 1, 3])
def test_saved_and_loaded_state_goes_on_bit_for_bit(saved_at: int, tmp_path: Path) -> None:
    config = OptimizerConfig(lr=0.1, schedule=Schedule.cosine, warmup_fraction=0.3)

    def run(module: Pair, stepper: TorchStepper, first: int, last: int) -> list[float]:
        rates = []
        for step in range(first, last):
            give(module, gradients(step))
            rates.append(stepper.step()["lr"])
        return rates

    straight = Pair()
    rates = run(straight, TorchStepper(straight, config, 6), 0, 6)
    first, second = Pair(), Pair()
    stepper = TorchStepper(first, config, 6)
    run(first, stepper, 0, saved_at)
    stepper.save(tmp_path)
    second.load_state_dict(first.state_dict())
    restored = TorchStepper(second, config, 6)
    restored.load(tmp_path)
    assert run(second, restored, saved_at, 6) == rates[saved_at:]
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a fused optimizer keeps its counter there")
def test_loaded_state_works_on_a_gpu(tmp_path: Path) -> None:
    module = Pair().cuda()
    stepper = TorchStepper(module, CONFIG, 5)
    for p in (module.a, module.b):
        p.grad = torch.ones_like(p)
    stepper.step()
    stepper.save(tmp_path)
    again = TorchStepper(module, CONFIG, 5)
    again.load(tmp_path)
    for p in (module.a, module.b):
        p.grad = torch.ones_like(p)
    again.step()
    assert {state["step"].device.type for state in again.optimizer.state.values()} == {"cuda"}
