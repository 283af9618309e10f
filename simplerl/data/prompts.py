"""Render problems as prompts (text and tokens), and define the stop conditions of a response.

Templates are filled by replacing the known placeholders only, once and literally, so braces in a template
(`\\boxed{}`) or in a question (LaTeX) need no escaping.
"""

from __future__ import annotations

import datetime
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from simplerl.config import OverLong, PromptConfig
from simplerl.data.lengths import training_remedy
from simplerl.data.rows import prompt_option, setting
from simplerl.errors import ConfigError, require
from simplerl.rewards.returned import is_encodable
from simplerl.types import Problem, Prompt, Stop

logger = logging.getLogger(__name__)

# Variables that every chat template gets.
_RESERVED = ("messages", "add_generation_prompt", "tokenize", "strftime_now")


def fill(template: str, **values: str) -> str:
    """Replace each `{name}` in `template` by `values[name]`, in one pass: inserted text is not searched again."""
    names = "|".join(map(re.escape, values))
    return re.sub(r"\{(" + names + r")\}", lambda match: values[match[1]], template)


def generation_eos_ids(path: str, revision: str | None = None) -> tuple[int, ...]:
    """Return the end-of-sequence token ids in a model's generation_config.json, or () if it has no such file.

    path, revision: a folder, or a Hub id and its revision.
    """
    from transformers import GenerationConfig

    if Path(path).is_dir() and not (Path(path) / "generation_config.json").is_file():
        return ()
    try:
        ids = GenerationConfig.from_pretrained(path, revision=revision or "main").eos_token_id
    except OSError:  # a Hub model without the file: the tokenizer's own end token is still used
        return ()
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)


class PromptFormat:
    """Renders problems by one prompt (prompt, evals.prompt, warmup.prompt). Raises ConfigError if it cannot work.

    eos_ids: the model's end-of-sequence tokens; None reads them from the generation config of the folder or Hub id
        that the tokenizer was loaded from.
    stop (attribute): the end tokens of tokenizer, model and prompt, in this order, and the prompt's stop strings.
    """

    def __init__(
        self, config: PromptConfig, tokenizer: Any, eos_ids: Sequence[int] | None = None, key: str = "prompt"
    ) -> None:
        self.config, self.key = config, key
        self.tokenizer = tokenizer
        _check_prompt(config, tokenizer, key)
        self._shots = "".join(fill(config.shot, **shot) for shot in config.shots)
        if eos_ids is None:
            eos_ids = generation_eos_ids(tokenizer.name_or_path) if tokenizer.name_or_path else ()
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = [*own, *eos_ids, *_stop_token_ids(config, tokenizer, key)]
        if not ids:
            raise ConfigError(
                f"{prompt_option(key, config.name)}: the tokenizer {tokenizer.name_or_path} has no end-of-text token: "
                f"set {key}.stop_tokens to the token that ends a response."
            )
        self.stop = Stop(ids=tuple(dict.fromkeys(ids)), strings=tuple(config.stop_strings))
        if config.template is None:
            self._check_chat_template()

    def _check_chat_template(self) -> None:
        """Raise ConfigError if the chat template drops the question or the system message, or does not read a variable
        of `prompt.variables`."""
        where = prompt_option(self.key, self.config.name)
        template = self.tokenizer.get_chat_template()
        for name in self.config.variables:
            if not re.search(rf"\b{re.escape(name)}\b", template) or name in _RESERVED:
                raise ConfigError(
                    f"{where}: the chat template of {self._model} does not read {self.key}.variables.{name}: "
                    f"correct the name, or remove it with ~{self.key}.variables.{name}."
                )
        probe = Problem("probe", "What is 12 + 34?", "46")
        text = " ".join(self._chat(probe).split())
        if probe.question not in text:
            raise ConfigError(
                f"{where}: the rendered prompt does not hold the question, so the chat template of {self._model} does "
                "not fit text messages: choose a prompt with a template, such as "
                f"{prompt_option(self.key, 'question_answer')}."
            )
        if self.config.system and " ".join(self.config.system.split()) not in text:
            raise ConfigError(
                f"{where}: the chat template of {self._model} drops the system message: set {self.key}.system=null."
            )

    @property
    def _model(self) -> str:
        return str(self.tokenizer.name_or_path)

    def text(self, problem: Problem) -> str:
        """Return the prompt as text, without the begin-of-text token that the tokenizer may add. Raises ConfigError if
        the problem has a system message that this prompt cannot render, or if the chat template raises."""
        if problem.system is not None:
            self._check_system(problem)
        if self.config.template is not None:
            return fill(
                _with_newline(self.config.template, self.config.final_newline),
                question=problem.question,
                shots=self._shots,
            )
        return self._chat(problem)

    def _chat(self, problem: Problem) -> str:
        """Return the prompt that the model's chat template renders, on the day `prompt.date`. Raises ConfigError if the
        template raises."""
        system = self.config.system if problem.system is None else problem.system
        messages = [{"role": "user", "content": fill(self.config.user, question=problem.question)}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        date = datetime.datetime.fromisoformat(self.config.date)
        variables = {"strftime_now": date.strftime, **self.config.variables}
        render = self.tokenizer.apply_chat_template
        try:
            return str(render(messages, tokenize=False, add_generation_prompt=True, **variables))
        except Exception as error:  # whatever the template's code raises
            reason = (str(error) or type(error).__name__).splitlines()[0]
            remedy = f"choose a prompt with a template, such as {prompt_option(self.key, 'question_answer')}"
            if system is not None:
                remedy = f"set {self.key}.system=null" if problem.system is None else f"set {setting('system')}=drop"
            raise ConfigError(
                f"{prompt_option(self.key, self.config.name)}: the chat template of {self._model} refuses a prompt "
                f"{'with' if system is not None else 'without'} a system message ({reason}): {remedy}."
            ) from error

    def _check_system(self, problem: Problem) -> None:
        """Raise ConfigError if this prompt cannot render the problem's system message."""
        chosen, text = prompt_option(self.key, self.config.name), str(problem.system)[:40]
        where = f"{chosen}: problem {problem.id} has a system message ({text!r})"
        if self.config.template is not None:
            raise ConfigError(
                f"{where}, for which {self.key}.template has no place: choose {prompt_option(self.key, 'chat')}, or "
                f"set {setting('system')}=drop."
            )
        if self.config.system is not None:
            raise ConfigError(
                f"{where}, but {self.key}.system is also set: set {self.key}.system=null, or {setting('system')}=drop."
            )

    def render(self, problem: Problem) -> Prompt:
        """Render one problem; for many, `render_all` is faster."""
        return self.render_all([problem])[0]

    def render_all(self, problems: Sequence[Problem]) -> list[Prompt]:
        """Render and tokenize problems in one batch, in order."""
        if not problems:
            return []
        texts = [self.text(problem) for problem in problems]
        # A chat template, or a text template that starts with it, already contains the begin-of-text token.
        bos = self.tokenizer.bos_token
        special = self.config.template is not None and not (bos and texts[0].startswith(bos))
        rows = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        return [Prompt(problem, text, tuple(ids)) for problem, text, ids in zip(problems, texts, rows, strict=True)]

    def without_shots(self) -> PromptFormat:
        """Return this format without few-shot examples."""
        return PromptFormat(replace(self.config, shots=[]), self.tokenizer, self.stop.ids, self.key)

    def response(self, problem: Problem) -> str:
        """Return the SFT target: `prompt.response` filled with the problem's solution and answer.

        Raises ConfigError if `prompt.response` uses a solution that the problem does not have.
        """
        if problem.solution is None and "{solution}" in self.config.response:
            raise ConfigError(
                f"problem {problem.id} has no solution, which {self.key}.response uses: name its column, such as "
                f"{setting('columns.solution')}=solution, or set '{self.key}.response=\"{{answer}}\"'."
            )
        return fill(
            self.config.response,
            question=problem.question,
            solution=problem.solution or "",
            answer=problem.answer,
        )

    def document(self, problem: Problem) -> tuple[Prompt, tuple[int, ...]]:
        """Return the prompt and the response tokens of one SFT document.

        The response ends with the first stop token: the tokenizer's end token, if it has one.
        """
        prompt, response = self.render(problem), self.response(problem)
        return prompt, (*self._continuation(prompt, response), self.stop.ids[0])

    def _continuation(self, prompt: Prompt, response: str) -> list[int]:
        """Return the tokens of `response` as a continuation of exactly the prompt's tokens, as in sampling.

        Both are tokenized together, because some tokenizers (SentencePiece) put a space before every text. Only if that
        would change the prompt's tokens is the response tokenized alone."""
        plain = {"add_special_tokens": False}
        head = self.tokenizer(prompt.text, **plain)["input_ids"]
        whole = self.tokenizer(prompt.text + response, **plain)["input_ids"]
        if whole[: len(head)] == head:
            return list(whole[len(head) :])
        return list(self.tokenizer(response, **plain)["input_ids"])


def _with_newline(template: str, newline: bool | None) -> str:
    """Return the template with or without a newline at its end, or unchanged if `newline` is None."""
    bare = template.removesuffix("\n")
    return template if newline is None else bare + "\n" * newline


def _check_prompt(config: PromptConfig, tokenizer: Any, key: str) -> None:
    """Raise ConfigError if the templates, examples and stop strings of a prompt cannot work."""
    where = prompt_option(key, config.name)
    if config.template is None and tokenizer.chat_template is None:
        raise ConfigError(
            f"{where} uses the model's chat template, but {tokenizer.name_or_path} has none: "
            f"choose a prompt with a template, such as {prompt_option(key, 'question_answer')}."
        )
    try:
        datetime.datetime.fromisoformat(config.date)
    except ValueError:
        raise ConfigError(f"{key}.date={config.date} is not a date: write it as {key}.date=2024-07-26.") from None
    if config.variables and config.template is not None:
        raise ConfigError(
            f"{where}: {key}.variables is for the model's chat template, but {key}.template is set: choose "
            f"{prompt_option(key, 'chat')} or remove the variables."
        )
    name, text = ("user", config.user) if config.template is None else ("template", config.template)
    if "{question}" not in text:
        raise ConfigError(f"{where}: {key}.{name} has no {{question}}, so all prompts would be equal: add it.")
    if config.shots and "{shots}" not in (config.template or ""):
        raise ConfigError(
            f"{where}: {key}.shots has examples, but {key}.template has no {{shots}}: add it or empty {key}.shots."
        )
    for number, shot in enumerate(config.shots, start=1):
        for name in re.findall(r"\{(question|answer|solution)\}", config.shot):
            if name not in shot:
                raise ConfigError(
                    f"{where}: example {number} of {key}.shots has no {name}, which {key}.shot uses: add it."
                )
    if config.shots and "{question}" not in config.shot:
        raise ConfigError(f"{where}: {key}.shot has no {{question}}: set it to the template of one example.")
    if config.final_newline is not None and config.template is None:
        raise ConfigError(
            f"{where}: {key}.final_newline changes {key}.template, but this prompt is the model's chat template: set "
            f"{key}.final_newline=null, or choose a prompt with a template."
        )
    if "" in config.stop_strings:
        raise ConfigError(
            f"{where}: {key}.stop_strings holds an empty string, which would end every response at once: remove it."
        )


def _stop_token_ids(config: PromptConfig, tokenizer: Any, key: str) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    for piece in config.stop_tokens:
        if piece not in vocabulary:
            raise ConfigError(
                f"{key}.stop_tokens names {piece!r}, which the tokenizer {tokenizer.name_or_path} does not have: "
                "choose a prompt for this model, or remove the token."
            )
    return [vocabulary[piece] for piece in config.stop_tokens]


def without_surrogates(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems whose texts UTF-8 can represent, in order; the others are counted in the log. Raises
    ConfigError for an object that is not a Problem with a text as id, question and answer."""
    problems = list(problems)
    for problem in problems:
        texts_of = {name: getattr(problem, name, None) for name in ("id", "question", "answer")}
        if not isinstance(problem, Problem) or not all(isinstance(text, str) for text in texts_of.values()):
            raise ConfigError(
                f"{setting('_target_')} must give a list of simplerl.types.Problem whose id, question and answer are "
                f"text, but gives {problem!r:.100}."
            )
    texts = ((p.id, p.question, p.answer, p.source, p.level or "", p.solution or "") for p in problems)
    readable = [is_encodable("".join(some)) for some in texts]
    if not all(readable):
        message = (
            "%d problems have a lone surrogate in a text, which UTF-8 cannot represent, and are left out: first %r"
        )
        logger.warning(message, readable.count(False), problems[readable.index(False)].id)
    return list(compress(problems, readable))


def prepare_prompts(
    problems: Iterable[Problem],
    format: PromptFormat,
    context: int,
    max_new_tokens: int,
    max_tokens: int | None = None,
) -> tuple[list[Prompt], dict[str, int]]:
    """Render problems, and drop or truncate prompts that are too long. Raises ConfigError if none is left.

    context: the number of tokens that the model supports, for prompt and response together.
    max_new_tokens: the longest response.
    max_tokens: the longest prompt; None uses prompt.max_tokens.

    Returns the prompts and counts: kept, over_limit (longer than max_tokens), over_context (no room left for
    max_new_tokens), and longest (the length of the longest kept prompt in tokens).
    """
    limit = format.config.max_tokens if max_tokens is None else max_tokens
    if max_new_tokens >= context:
        raise ConfigError(
            f"sampling.max_new_tokens={max_new_tokens} leaves no room for a prompt in the model's context of {context} "
            "tokens: lower it, or raise model.context if the model supports it."
        )
    problems = without_surrogates(problems)
    if not problems:
        raise ConfigError(f"{setting('path')}: there are no problems: name a file or a function that has some.")
    kept: list[Prompt] = []
    counts: Counter[str] = Counter(kept=0, over_limit=0, over_context=0, longest=0)
    rendered = format.render_all(problems)
    for prompt in rendered:
        length = len(prompt.token_ids)
        if length > limit:
            counts["over_limit"] += 1
            if format.config.over_long is OverLong.truncate:
                kept.append(replace(prompt, token_ids=prompt.token_ids[:limit]))
        elif length + max_new_tokens > context:
            counts["over_context"] += 1
        else:
            kept.append(prompt)
    if not kept:
        require(bool(rendered), "No training problem is left: choose other data.")
        bare = _lengths(format.without_shots().render_all(problems)) if format.config.shots else None
        raise ConfigError(
            f"All prompts are too long: {counts['over_limit']} are over prompt.max_tokens={limit} and "
            f"{counts['over_context']} leave no room for sampling.max_new_tokens={max_new_tokens} in the model's "
            f"context of {context} tokens: "
            f"{training_remedy(_lengths(rendered), bare, limit, max_new_tokens, context)}."
        )
    counts["kept"] = len(kept)
    counts["longest"] = max(_lengths(kept))
    return kept, dict(counts)


def _lengths(prompts: Sequence[Prompt]) -> list[int]:
    return [len(prompt.token_ids) for prompt in prompts]
