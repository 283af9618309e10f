"""Prompts: rendered text byte for byte, stop rules, error messages, and prompts that are too long."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from simplerl.config import Config, EvalsConfig, ModelConfig, PromptConfig, SamplingConfig, TooLong
from simplerl.data.prompts import PromptFormat, fill, prepare_prompts
from simplerl.data.task import EvalSets, prepare_evals
from simplerl.errors import ConfigError
from simplerl.micro.tokenizer import build
from simplerl.types import Problem

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf" / "prompt"
# Braces, LaTeX and placeholder names in a question must be copied unchanged.
TRICKY = Problem(
    "p1", r"Let $f(x)=\frac{1}{2}x$, {answer}, {shots} \1. Is {question} 3?", "3", solution="It is {answer}."
)
SYSTEM = "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"


def config(name: str) -> PromptConfig:
    return PromptConfig(**OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def qwen() -> Any:
    """A tokenizer with <|im_start|> and <|im_end|>, whose end token is <|endoftext|> as in Qwen's base models."""
    return build()


@pytest.fixture
def chat_tokenizer() -> Any:
    tokenizer = build()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="module")
def llama() -> Any:
    """A tokenizer that adds <s> at the start and marks words by a leading ▁, like SentencePiece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", "▁", *map(chr, range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


EXPECTED = {
    "simplerl_train": SYSTEM + "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant",
    "qwen25_math_cot": SYSTEM + "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
    "question_answer": "Question:\n{question}\nAnswer:\nLet's think step by step.",
    "round0": "[Round 0] USER:\n{question}\nPlease reason step by step, and put your final answer within \\boxed{}. "
    "ASSISTANT:\n",
    "question_answer_2shot": "Question: A baker fills 4 trays with 12 rolls each and sells 30 of the rolls. How many "
    "rolls are left?\nAnswer: Let's think step by step. The baker makes 4 * 12 = 48 rolls. After the sale 48 - 30 = 18 "
    "rolls are left. The final answer is \\boxed{18}.\n\nQuestion: Tom reads 15 pages a day for a week, and Ann reads "
    "twice as many pages a day. How many pages do they read together?\nAnswer: Let's think step by step. Tom reads "
    "15 * 7 = 105 pages. Ann reads 15 * 2 = 30 pages a day, which is 30 * 7 = 210 pages. Together they read "
    "105 + 210 = 315 pages. The final answer is \\boxed{315}.\n\nQuestion: {question}\nAnswer: Let's think step by "
    "step.",
    "r1": "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
    "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. The "
    "reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. The final answer is put within "
    "\\boxed{}.\nUser: {question}\nAssistant:",
    "micro": "{question}\n",
    "zoo_complex": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}\nPlease "
    "reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n",
    "zoo_simple": "Question:\n{question}\nAnswer:\nLet's think step by step.\n",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rendered_text_byte_for_byte(name: str, qwen: Any) -> None:
    prompt = PromptFormat(config(name), qwen).render(TRICKY)
    assert prompt.text == EXPECTED[name].replace("{question}", TRICKY.question)
    assert qwen.decode(prompt.token_ids) == prompt.text
    assert prompt.problem is TRICKY


def test_every_prompt_config_is_tested() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {*EXPECTED, "chat"}


def test_training_and_evaluation_prompts_differ_only_by_the_newline(qwen: Any) -> None:
    train, evaluation = (PromptFormat(config(name), qwen) for name in ("simplerl_train", "qwen25_math_cot"))
    assert train.render(TRICKY).text + "\n" == evaluation.render(TRICKY).text
    assert train.stop == evaluation.stop


def test_special_tokens_are_tokenized_as_such(qwen: Any) -> None:
    prompt = PromptFormat(config("simplerl_train"), qwen).render(TRICKY)
    vocabulary = qwen.get_vocab()
    assert prompt.token_ids.count(vocabulary["<|im_start|>"]) == 3
    assert prompt.token_ids.count(vocabulary["<|im_end|>"]) == 2


def test_chat_template(chat_tokenizer: Any) -> None:
    expected = (
        f"<|im_start|>user\n{TRICKY.question}\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert PromptFormat(config("chat"), chat_tokenizer).render(TRICKY).text == expected
    with_system = replace(config("chat"), system="Be brief.")
    prompt = PromptFormat(with_system, chat_tokenizer).render(TRICKY)
    assert prompt.text == f"<|im_start|>system\nBe brief.<|im_end|>\n{expected}"


def test_render_all_equals_rendering_one_by_one(qwen: Any, llama: Any) -> None:
    problems = [TRICKY, replace(TRICKY, question="1 + 1?"), replace(TRICKY, question=" two  spaces ")]
    for tokenizer in (qwen, llama):
        format = PromptFormat(config("question_answer"), tokenizer)
        assert format.render_all(problems) == [format.render(problem) for problem in problems]
    assert format.render_all([]) == []


def test_one_begin_of_text_token(llama: Any) -> None:
    plain = PromptConfig(name="t", template="{question}")
    assert PromptFormat(plain, llama).render(TRICKY).token_ids[:2] != (1, 1)
    assert PromptFormat(plain, llama).render(TRICKY).token_ids[0] == 1
    written = PromptFormat(PromptConfig(name="t", template="<s>{question}"), llama).render(TRICKY)
    assert written.token_ids.count(1) == 1


def test_stop_rule(qwen: Any, tmp_path: Path) -> None:
    vocabulary = qwen.get_vocab()
    stop = PromptFormat(config("simplerl_train"), qwen, eos_ids=[77, 0]).stop
    assert stop.ids == (
        0,
        77,
        vocabulary["<|im_end|>"],
    )  # those of the tokenizer, the model and the prompt, without repetition
    assert stop.strings == ("</s>", "<|im_end|>", "<|endoftext|>")
    qwen.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    from transformers import AutoTokenizer

    assert PromptFormat(config("micro"), AutoTokenizer.from_pretrained(tmp_path)).stop.ids == (0, 5, 6)


def test_documents_end_with_the_token_that_stops_sampling(qwen: Any) -> None:
    format = PromptFormat(config("question_answer_2shot"), qwen)
    prompt, response = format.document(TRICKY)
    assert prompt == format.render(TRICKY)
    assert qwen.decode(response) == " It is {answer}.\nThe final answer is \\boxed{3}.<|endoftext|>"
    assert response[-1] in format.stop.ids
    assert response.count(format.stop.ids[0]) == 1


def test_documents_continue_the_prompt(llama: Any) -> None:
    """Tokenized alone, a response would begin with an additional space."""
    format = PromptFormat(PromptConfig(name="t", template="{question}\n", response="{answer}"), llama)
    _, response = format.document(TRICKY)
    vocabulary = llama.get_vocab()
    assert response == (vocabulary["3"], vocabulary["</s>"])


def test_a_document_needs_a_solution(qwen: Any) -> None:
    bare = Problem("p9", "Q?", "3")
    with pytest.raises(ConfigError, match="problem p9 has no solution"):
        PromptFormat(config("simplerl_train"), qwen).document(bare)
    answer_only = replace(config("simplerl_train"), response="\\boxed{{answer}}")
    assert PromptFormat(answer_only, qwen).response(bare) == "\\boxed{3}"


def test_fill_is_one_pass() -> None:
    assert fill("{a}{b}{c}{{a}}", a="{b}", b="\\2") == "{b}\\2{c}{{b}}"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown stop token": ({"stop_tokens": ["<|eot|>"]}, "prompt.stop_tokens names '<|eot|>', which the tokenizer"),
    "no question": ({"template": "Hello"}, "prompt.template has no {question}"),
    "shots nowhere": ({"shot": "{question}", "shots": [{"question": "Q"}]}, "prompt.template has no {shots}"),
    "shot incomplete": (
        {"template": "{shots}{question}", "shot": "{question} {answer}", "shots": [{"question": "Q"}]},
        "example 1 of prompt.shots has no answer",
    ),
    "shot unwritten": (
        {"template": "{shots}{question}", "shots": [{"question": "Q", "answer": "A"}]},
        "prompt.shot has no {question}",
    ),
    "empty stop string": ({"stop_strings": [""]}, "prompt.stop_strings holds an empty string"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_prompts_raise_an_error(name: str, qwen: Any) -> None:
    change, message = BAD[name]
    with pytest.raises(ConfigError) as error:
        PromptFormat(PromptConfig(**{"name": "bad", "template": "{question}", **change}), qwen)
    assert message in str(error.value)
    with pytest.raises(ConfigError) as error:
        PromptFormat(PromptConfig(**{"name": "bad", "template": "{question}", **change}), qwen, key="evals.prompt")
    said = str(error.value)
    assert "evals.prompt." in said and re.search(r"(?<![.\w])prompt[.=]", said) is None


def test_remedies_of_messages_about_examples_and_end_tokens(qwen: Any) -> None:
    shots = {"shot": "{question}", "shots": [{"question": "Q"}]}
    PromptFormat(PromptConfig(name="t", template="{shots}{question}", **shots), qwen)  # type: ignore[arg-type]
    PromptFormat(PromptConfig(name="t", template="{question}", shot="{question}", shots=[]), qwen)
    tokenizer = build()
    tokenizer.eos_token, token = None, next(iter(tokenizer.get_vocab()))
    PromptFormat(replace(config("micro"), stop_tokens=[token]), tokenizer, eos_ids=())


def test_a_model_without_chat_template_is_refused(llama: Any) -> None:
    with pytest.raises(ConfigError, match=r"has none: choose a prompt with a template, such as prompt=question_answer"):
        PromptFormat(config("chat"), llama)


TEMPLATES = {
    "no system": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "system dropped": "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}",
    "dated": "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m['content'] }}{% endfor %}",
    "parts": "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}",
    "fails": "{{ messages[0]['content'] + 1 }}",
    "thinking": "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {  # template, changes of prompt=chat, message
    "system refused": ("no system", {"system": "Be brief."}, "(no system turn): set prompt.system=null"),
    "system dropped": ("system dropped", {"system": "Be brief."}, "drops the system message: set prompt.system=null"),
    "question dropped": ("parts", {}, "does not hold the question"),
    "failing template": ("fails", {}, "refuses a prompt without a system message"),
    "no date": ("dated", {"date": "today"}, "prompt.date=today is not a date: write it as prompt.date=2024-07-26"),
    "unread variable": (
        "thinking",
        {"variables": {"enable_thought": False}},
        "does not read prompt.variables.enable",
    ),
    "reserved variable": ("thinking", {"variables": {"messages": []}}, "does not read prompt.variables.messages"),
}


def chat_format(template: str, **changes: Any) -> PromptFormat:
    tokenizer = build()
    tokenizer.chat_template = TEMPLATES[template]
    return PromptFormat(replace(config("chat"), user="{question}", **changes), tokenizer)


@pytest.mark.parametrize("name", REFUSED)
def test_chat_templates_that_do_not_fit_are_refused(name: str) -> None:
    template, changes, message = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        chat_format(template, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_date_of_a_chat_template_is_that_of_the_configuration() -> None:
    assert chat_format("dated").render(TRICKY).text == f"26 Jul 2024 {TRICKY.question}"
    assert chat_format("dated", date="2025-02-01").render(TRICKY).text.startswith("01 Feb 2025 ")


def test_variables_reach_the_chat_template(qwen: Any) -> None:
    plain, short = chat_format("thinking"), chat_format("thinking", variables={"enable_thinking": False})
    assert short.render(TRICKY).text == plain.render(TRICKY).text + "<think></think>"
    with pytest.raises(ConfigError, match=r"choose prompt=chat or remove the variables"):
        PromptFormat(replace(config("micro"), variables={"enable_thinking": False}), qwen)


def test_system_turns_of_the_data(chat_tokenizer: Any, qwen: Any) -> None:
    problem = replace(TRICKY, system="Be brief.")
    chat = PromptFormat(config("chat"), chat_tokenizer).render(problem).text
    assert chat.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    for format, message in {
        PromptFormat(config("micro"), qwen): r"\('Be brief.'\), for which prompt.template has no place",
        PromptFormat(replace(config("chat"), system="S"), chat_tokenizer): r"but prompt.system is also set",
        chat_format("no system"): r"\(no system turn\): set data.system=drop",
    }.items():
        with pytest.raises(ConfigError, match=message):
            format.render(problem)


def test_a_chat_prompt_needs_the_question(chat_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"prompt.user has no \{question\}"):
        PromptFormat(PromptConfig(name="chat", user="Hi"), chat_tokenizer)


def test_a_tokenizer_without_end_token_is_refused(qwen: Any) -> None:
    tokenizer = build()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"set prompt.stop_tokens to the token that ends a response"):
        PromptFormat(config("micro"), tokenizer, eos_ids=())


def test_too_long_prompts_are_dropped_and_counted(qwen: Any) -> None:
    format = PromptFormat(PromptConfig(name="t", template="{question}", max_tokens=40), qwen)
    problems = [Problem(str(n), "x" * n, "1") for n in (10, 30, 36, 41, 60)]
    prompts, counts = prepare_prompts(problems, format, context=50, max_new_tokens=16)
    assert [len(prompt.token_ids) for prompt in prompts] == [10, 30]
    assert counts == {"kept": 2, "over_limit": 2, "over_context": 1, "longest": 30}
    prompts, counts = prepare_prompts(problems, format, context=50, max_new_tokens=16, max_tokens=20)
    assert (len(prompts), counts["over_limit"]) == (1, 4)
    with pytest.raises(ConfigError, match=r"4 are over prompt.max_tokens=20 and 1 leave no room"):
        prepare_prompts(problems, format, context=50, max_new_tokens=45, max_tokens=20)
    with pytest.raises(ConfigError, match=r"sampling.max_new_tokens=50 leaves no room"):
        prepare_prompts(problems, format, context=50, max_new_tokens=50)
    assert prepare_prompts(problems, format, context=50, max_new_tokens=16)[0]  # lowered
    assert prepare_prompts(problems, format, context=99, max_new_tokens=50)[0]  # model.context raised


@pytest.mark.parametrize("field", ["id", "question", "answer", "solution"])
def test_problems_that_utf8_cannot_hold_are_left_out(field: str, qwen: Any, caplog: pytest.LogCaptureFixture) -> None:
    bad = replace(Problem("b", "2?", "2"), **{field: "\ud800"})  # type: ignore[arg-type]
    format = PromptFormat(PromptConfig(name="t", template="{question}"), qwen)
    prompts, _ = prepare_prompts([Problem("a", "1?", "1"), bad], format, context=50, max_new_tokens=16)
    assert [prompt.problem.id for prompt in prompts] == ["a"]
    assert "1 problems have a lone surrogate" in caplog.text


def test_long_evaluation_items_stay_unless_excluded(qwen: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Only the context limits the prompts of evaluations, not prompt.max_tokens."""
    short, long = Problem("a", "1?", "1"), Problem("b", "x" * 80, "1")

    def sets(problems: list[Problem], **changes: Any) -> EvalSets:
        evals = EvalsConfig(sets={"s": lambda: problems}, sampling=SamplingConfig(max_new_tokens=20), **changes)
        prompt = replace(config("micro"), max_tokens=10)
        made = Config(model=ModelConfig(path=str(ROOT / "assets/micro_base")), prompt=prompt, evals=evals)
        return prepare_evals(made, qwen, context=100)

    kept = sets([short, Problem("m", "y" * 50, "1"), long])
    assert [prompt.problem.id for prompt in kept.prompts["s"]] == ["a", "m", "b"]
    assert kept.too_long == {"s": ["b"]}
    assert "1 of 3 prompts leave no room for a response and count as wrong; evals.too_long=exclude" in caplog.text
    excluded = sets([short, long], too_long=TooLong.exclude)
    assert [prompt.problem.id for prompt in excluded.prompts["s"]] == ["a"]
    assert (excluded.too_long, excluded.excludes_too_long) == ({"s": ["b"]}, True)
    with pytest.raises(ConfigError, match=r"evals.sets.s: every prompt is longer than the 80 tokens that"):
        sets([long])
