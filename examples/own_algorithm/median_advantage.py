"""An advantage estimator whose baseline is the median of the group. Run this file to check it by hand."""

import torch

from simplerl.types import Batch


def median_baseline(batch: Batch) -> Batch:
    """Estimate advantages as the return minus the median return of the prompt's responses, equal for all tokens of a
    response. The median of an even number is the mean of the two middle values."""
    assert batch.token_rewards is not None
    returns = batch.token_rewards.sum(-1)  # [B]
    baseline = torch.empty_like(returns)
    for group in batch.group.unique():
        own = batch.group == group
        baseline[own] = returns[own].quantile(0.5)
    return batch.with_(advantages=(returns - baseline)[:, None] * batch.mask)


if __name__ == "__main__":
    tokens, group = torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    mask = torch.ones(3, 2, dtype=torch.bool)
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    batch = Batch(tokens, attention=mask, mask=mask, group=group, token_rewards=rewards)
    print(median_baseline(batch).advantages)
