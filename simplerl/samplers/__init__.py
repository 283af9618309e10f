"""Defines the interface of samplers, which generate responses with the policy's weights: `local` and `vllm`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from simplerl.types import Prompt, Rollout, Sampling, Stop

if TYPE_CHECKING:
    from torch import Tensor


class Sampler(Protocol):
    """Generates responses with weights that the training loop replaces after every policy update.

    To add a sampler, write a class with these two methods and a function that builds it, and name the function in
    `conf/sampler/<name>.yaml` (`_target_`, `_partial_: true`, and its keyword arguments as keys):

        def my_sampler(policy, tokenizer, model, *, max_rows=256) -> Sampler: ...

    `policy` is a function without arguments that returns the transformers model to sample from (in training, the one
    being trained); `tokenizer` is its tokenizer, and `model` a `ModelConfig` whose path holds config, tokenizer and
    initial weights. An engine that reads the weights itself does not call `policy`, so that no model is loaded twice
    for an evaluation.

    The two methods are never called at the same time, but possibly from different threads.
    `simplerl.samplers.local.LocalSampler` is the reference implementation.
    """

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        """Yield `samples` responses to each prompt, in any order, preferably as soon as each is complete.

        Each rollout has
        - `sample`: its index 0..samples-1 among the responses to its prompt;
        - `token_ids`: the generated tokens, including the stop token if there is one, at most
          `sampling.max_new_tokens` of them;
        - `logprobs`: one per token, under the distribution that the token was sampled from (after temperature, top-k
          and top-p; for greedy decoding, temperature 0, under the plain softmax);
        - `finish_reason`: FINISH_STOP if a token of `stop.ids` or a string of `stop.strings` ended it, FINISH_LENGTH
          if it was truncated at max_new_tokens;
        - `text`: the decoded response without the stop token, truncated at the first stop string
          (`simplerl.samplers.stopping.StopRule` does this);
        - `score`: None.

        Responses must be reproducible: a response may depend only on the weights and on (seed, step, problem id,
        sample index), not on the other prompts or on the order of work. `response_seed` hashes these four.

        The caller may close the iterator before it is exhausted; release caches and pending requests then. Raise
        ConfigError if a prompt and `max_new_tokens` together exceed the model's context.
        """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights by (Hugging Face parameter name, tensor) pairs, tensors being float32.

        Called before the first `generate` of training and after every policy update. The tensors are the trainer's
        own: copy them. Tied weights appear once. Raise ValueError or KeyError for an unknown parameter.
        """
