"""Sampling tokens from logits: random numbers, frequencies, top-k, top-p and log-probs."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from simplerl.errors import NonFinite
from simplerl.samplers.token_sampling import sample_tokens, uniforms
from simplerl.types import Sampling


def test_uniforms_are_splitmix64() -> None:
    # Outputs of the reference implementation for the seed 1234567.
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    got = uniforms(torch.full((3,), 1234567), torch.arange(3))
    assert got.tolist() == [(value >> 11) * 2.0**-53 for value in want]


@pytest.mark.parametrize("vocabulary", [40, 5000])
def test_token_frequencies_match_their_probabilities(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits, count, temperature = torch.randn(vocabulary) * 2, 8_000, 0.8
    want = (logits / temperature).softmax(-1)
    uniform = uniforms(torch.arange(count), torch.zeros(count, dtype=torch.int64))
    parts = [sample_tokens(logits.expand(len(u), -1), u, Sampling(temperature)) for u in uniform.split(2000)]
    tokens, logprobs = (torch.cat(part) for part in zip(*parts, strict=True))
    torch.testing.assert_close(logprobs, want.log()[tokens], atol=1e-5, rtol=0)
    likely = want * count >= 5  # the others are pooled into one class
    have = tokens.bincount(minlength=vocabulary).double()
    expected = torch.cat((want[likely] * count, want[~likely].sum()[None] * count))
    observed = torch.cat((have[likely], have[~likely].sum()[None]))
    keep = expected > 0
    chi2 = float(((observed - expected) ** 2 / expected)[keep].sum())
    freedom = int(keep.sum()) - 1
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("vocabulary", [6, 3000])
def test_extreme_uniforms_never_select_a_token_of_probability_zero(vocabulary: int) -> None:
    logits = torch.full((2, vocabulary), -torch.inf)
    logits[:, 2], logits[:, 4] = 0.0, 1.0
    tokens, _ = sample_tokens(logits, torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64), Sampling())
    assert tokens.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=2), [0.5, 0.3]),
        (Sampling(top_p=0.75), [0.5, 0.3]),  # 0.5 is below top_p, 0.5 + 0.3 is not
        (Sampling(top_p=0.85), [0.5, 0.3, 0.15]),
        (Sampling(top_k=3, top_p=0.6), [0.5, 0.3]),
        (Sampling(top_p=0.1), [0.5]),
    ],
)
@pytest.mark.parametrize("vocabulary", [4, 3000])
def test_top_k_and_top_p_keep_the_most_likely_tokens(sampling: Sampling, kept: list[float], vocabulary: int) -> None:
    probability = torch.tensor([0.05, 0.3, 0.5, 0.15])
    logits = torch.nn.functional.pad(probability.log(), (0, vocabulary - 4), value=-100.0)
    uniform = (torch.arange(1000).double() + 0.5) / 1000  # a regular grid, so frequencies are exact to 1/1000
    tokens, logprobs = sample_tokens(logits.expand(1000, -1), uniform, sampling)
    have = Counter(tokens.tolist())
    want = {[0.05, 0.3, 0.5, 0.15].index(p): p / sum(kept) for p in kept}
    assert {token: count / 1000 for token, count in have.items()} == pytest.approx(want, abs=2e-3)
    assert logprobs.exp().tolist() == pytest.approx([want[token] for token in tokens.tolist()], abs=1e-5)


SAMPLINGS = [Sampling(0.0), Sampling(1.0), Sampling(0.7), Sampling(1.0, top_p=0.9), Sampling(1.0, top_k=3)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("vocabulary", [40, 5000])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value: float, vocabulary: int, sampling: Sampling) -> None:
    """They used to give the token id `vocabulary`. One -inf is a token that cannot be sampled; all are a fault."""
    logits, uniform = torch.zeros(3, vocabulary), torch.full((3,), 0.5, dtype=torch.float64)
    logits[0, 0] = -math.inf
    tokens, logprobs = sample_tokens(logits, uniform, sampling)
    assert int(tokens.max()) < vocabulary and bool(torch.isfinite(logprobs).all())
    logits[1, 7] = value
    with pytest.raises(NonFinite, match="a logit of the sampled model is not finite"):
        sample_tokens(logits, uniform, sampling)
    with pytest.raises(NonFinite):
        sample_tokens(torch.full((3, vocabulary), -math.inf), uniform, sampling)
