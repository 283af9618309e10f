"""Refuse settings of lengths that do not fit the model's context, and propose settings that do.

No value of max_new_tokens helps if a prompt alone fills the context; then another remedy is proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from simplerl.config import Config, ModelConfig
from simplerl.errors import ConfigError

Lengths = Sequence[int]  # of prompts, in tokens


def typical_length(lengths: Lengths, context: int) -> int:
    """Return the median length of the prompts or, if that fills the context, the shortest one."""
    ordered = sorted(lengths)
    median = ordered[len(ordered) // 2]
    return median if median < context else ordered[0]


def check_context(config: Config, context: int) -> None:
    """Raise ConfigError if the maximum prompt and response length together exceed the context: prompts would be
    dropped."""
    prompt, response = config.prompt.max_tokens, config.sampling.max_new_tokens
    if prompt + response <= context:
        return
    half = context // 2
    if prompt < context:
        remedy = f"sampling.max_new_tokens={context - prompt}"
    elif response <= half:
        remedy = f"prompt.max_tokens={context - response}"
    else:
        remedy = f"prompt.max_tokens={half} sampling.max_new_tokens={half}"
    raise ConfigError(
        f"prompt.max_tokens={prompt} + sampling.max_new_tokens={response} = {prompt + response} exceeds the context of "
        f"{config.model.path} ({context} tokens): lower them, such as {remedy}{_context_hint(config.model)}."
    )


def training_remedy(lengths: Lengths, without_shots: Lengths | None, limit: int, response: int, context: int) -> str:
    """Return how to keep at least one training prompt, given that none is short enough.

    without_shots: the lengths without few-shot examples; None if there are none. limit: prompt.max_tokens. response:
    sampling.max_new_tokens.
    """
    if min(lengths) < context:
        return f"set {_training_settings(lengths, limit, response, context)}"
    remedy = "choose a model with a larger context"
    if without_shots is not None and min(without_shots) < context:
        remedy += (
            f", or fewer examples with 'prompt.shots=[]' {_training_settings(without_shots, 0, response, context)}"
        )
    return f"{remedy}, because even the shortest has {min(lengths)} tokens"


def _training_settings(lengths: Lengths, limit: int, response: int, context: int) -> str:
    length = typical_length(lengths, context)
    settings = [f"prompt.max_tokens={length}"] if length != limit else []
    if length + response > context:
        settings.append(f"sampling.max_new_tokens={context - length}")
    return " ".join(settings)


def check_evals(
    config: Config, context: int, lengths: Mapping[str, Lengths], without_shots: Callable[[], Mapping[str, Lengths]]
) -> None:
    """Raise ConfigError for evaluation sets in which no prompt leaves room for a response.

    lengths: those of each set's prompts. without_shots: computes them without few-shot examples."""
    response = config.evals.sampling.max_new_tokens
    lengths = {name: some for name, some in lengths.items() if some}
    refused = [name for name, some in lengths.items() if min(some) + response > context]
    if refused:
        where, model = f"evals.sets.{' and evals.sets.'.join(refused)}", config.model
        raise ConfigError(
            f"{where}: every prompt is longer than the {max(context - response, 0)} tokens that "
            f"evals.sampling.max_new_tokens={response} leaves in the context of {model.path} ({context} tokens): "
            f"{_evaluation_remedy(config, context, lengths, without_shots)}."
        )


def _evaluation_remedy(
    config: Config, context: int, lengths: Mapping[str, Lengths], without_shots: Callable[[], Mapping[str, Lengths]]
) -> str:
    response, hint = config.evals.sampling.max_new_tokens, _context_hint(config.model)
    fitting = {name: some for name, some in lengths.items() if min(some) < context}
    if len(fitting) == len(lengths):
        return f"lower it, such as{_response_setting(lengths, response, context)}{hint}"
    remedy = f"choose a model with a larger context{hint}"
    own = config.evals.prompt
    if (own or config.prompt).shots:
        shorter = {name: some for name, some in without_shots().items() if some}
        if all(min(some) < context for some in shorter.values()):
            key = "prompt.shots" if own is None else "evals.prompt.shots"
            remedy += f", or fewer examples with '{key}=[]'{_response_setting(shorter, response, context)}"
    if fitting:
        rest = " ".join(f"~evals.sets.{name}" for name in lengths if name not in fitting)
        remedy += f", or leave out what does not fit with {rest}{_response_setting(fitting, response, context)}"
    return f"{remedy}, because no response is short enough"


def _response_setting(lengths: Mapping[str, Lengths], response: int, context: int) -> str:
    """Return " evals.sampling.max_new_tokens=N" with an N for which some prompts of every set fit into the context; ""
    if that is so already."""
    if all(min(some) + response <= context for some in lengths.values()):
        return ""
    return f" evals.sampling.max_new_tokens={min(context - typical_length(some, context) for some in lengths.values())}"


def check_documents(config: Config, lengths: Lengths, limit: int, context: int) -> None:
    """Raise ConfigError if no document of a warm-up is short enough. limit: the smaller of the context and
    warmup.max_tokens."""
    if not lengths or min(lengths) <= limit:
        return
    typical = typical_length(lengths, context + 1)
    remedy = f"set warmup.max_tokens={typical}" if typical <= context else "choose a model with a larger context"
    raise ConfigError(
        f"The {len(lengths)} documents of the warm-up have {min(lengths)} tokens or more, which exceeds "
        f"{'warmup.max_tokens' if limit < context else 'the context of ' + config.model.path} ({limit} tokens): "
        f"{remedy}{_context_hint(config.model)}."
    )


def _context_hint(model: ModelConfig) -> str:
    return "" if model.context is None else f", or raise model.context={model.context}"
