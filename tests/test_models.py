"""The two heads and their loading, on small random models and on the shipped one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from simplerl.config import HeadStart, ModelConfig, Precision
from simplerl.engine import models
from simplerl.engine.models import Critic, context_length, load_hf_config, load_policy, load_tokenizer, token_logprobs
from simplerl.errors import ConfigError

MICRO = ModelConfig(path=str(Path(__file__).resolve().parent.parent / "assets/micro_base"))


def heads(rows: int = 50, hidden: int = 16, vocabulary: int = 37) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(rows, hidden, generator=generator) / hidden**0.5
    w = torch.randn(vocabulary, hidden, generator=generator)
    return h, w, torch.randint(0, vocabulary, (rows,), generator=generator)


def plain(
    h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    log_p = torch.log_softmax(h.double() @ w.double().T / temperature, -1)
    return log_p.gather(-1, targets[:, None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
@pytest.mark.parametrize("held", [2**22, 37 * 7, 1])  # logits: of all rows at once, of seven rows, of one row
@pytest.mark.parametrize("through", ["logprobs", "entropy", "both"])
def test_token_logprobs_and_their_gradients(
    temperature: float, held: int, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MAX_LOGITS", held)
    _compare(*heads(), temperature, through)


def test_a_large_vocabulary() -> None:
    _compare(*heads(rows=50, hidden=8, vocabulary=50_000), 0.7, "both")


def _compare(h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, temperature: float, through: str) -> None:
    ours = [h.clone().requires_grad_(), w.clone().requires_grad_()]
    exact = [h.clone().double().requires_grad_(), w.clone().double().requires_grad_()]
    found = token_logprobs(*ours, targets, temperature)
    expected = plain(*exact, targets, temperature)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
    upstream = torch.linspace(-1, 1, len(targets))
    use = {"logprobs": [0], "entropy": [1], "both": [0, 1]}[through]
    sum((upstream * (i + 1) * found[i]).sum() for i in use).backward()  # type: ignore[union-attr]
    sum((upstream.double() * (i + 1) * expected[i]).sum() for i in use).backward()  # type: ignore[union-attr]
    for mine, other in zip(ours, exact, strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad.double(), other.grad, atol=2e-5, rtol=1e-4)


def test_entropy_is_left_out_unless_asked_for() -> None:
    h, w, targets = heads()
    h.requires_grad_()
    logprobs, entropy = token_logprobs(h, w, targets, entropy=False)
    assert (entropy == 0).all()
    logprobs.sum().backward()
    again = h.detach().clone().requires_grad_()
    token_logprobs(again, w, targets)[0].sum().backward()
    assert h.grad is not None and again.grad is not None and torch.equal(h.grad, again.grad)


def test_bfloat16_products_are_close_and_probabilities_still_sum_to_one() -> None:
    h, w, targets = heads(rows=37)
    for row in (0, 5):
        everything = token_logprobs(h[row].expand(37, -1), w, torch.arange(37), dtype=torch.bfloat16)[0]
        assert float(everything.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    rough = token_logprobs(h, w, targets, dtype=torch.bfloat16)[0]
    assert 0 < float((rough - plain(h, w, targets, 1.0)[0]).abs().max()) < 0.1


def test_a_wide_distribution_is_exact_in_the_tail() -> None:
    h = torch.tensor([[100.0, 0.0]])
    w = torch.eye(2)
    logprobs, entropy = token_logprobs(h.expand(2, -1), w, torch.tensor([0, 1]))
    assert logprobs.tolist() == [0.0, -100.0]
    assert float(entropy[0]) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("vocabulary", [37, 5000])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_entropy_is_exact_and_never_negative(scale: float, vocabulary: int, offset: float) -> None:
    """The entropy of a nearly certain token is far below the rounding error of logits of size 100 (5e-6)."""
    logits = scale * torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(0)) + offset
    hidden, weight = torch.eye(64), logits.T.contiguous()  # so that the product is exact
    entropy = token_logprobs(hidden, weight, torch.zeros(64, dtype=torch.int64))[1]
    ranked = logits.double().sort(-1, descending=True).values
    below = ranked[:, 1:] - ranked[:, :1]  # of the largest logit, whose own probability float64 would round to 1
    others = below.exp().sum(-1)
    exact = others.log1p() - (below.exp() * below).sum(-1) / (1 + others)
    log_p = torch.log_softmax(logits.double(), -1)
    torch.testing.assert_close(exact, -(log_p.exp() * log_p).sum(-1), atol=1e-12, rtol=0)
    assert (entropy >= 0).all() and not torch.signbit(entropy).any()
    normal = exact > 1e-30  # below, float32 has fewer digits
    assert normal.sum() > 20
    torch.testing.assert_close(entropy[normal].double(), exact[normal], atol=0, rtol=1e-6)


def test_critic_head_is_as_published() -> None:
    """Normal with standard deviation 1 / (hidden + 1), no bias (OpenRLHF's value head)."""
    body: Any = tiny.policy(hidden_size=512, intermediate_size=64, num_hidden_layers=1).base_model
    head = Critic(body, seed=3).value_head
    assert head.bias is None and tuple(head.weight.shape) == (1, 512)
    assert float(head.weight.detach().std()) * 513 == pytest.approx(1.0, abs=0.1)
    assert float(head.weight.detach().mean()) * 513 == pytest.approx(0.0, abs=0.15)
    assert torch.equal(head.weight, Critic(body, seed=3).value_head.weight)
    assert not torch.equal(head.weight, Critic(body, seed=4).value_head.weight)


def test_value_heads_start_as_named() -> None:
    width = 4096
    uniform, zero = (models.new_value_head(width, 3, start) for start in (HeadStart.uniform, HeadStart.zero))
    assert float(uniform.abs().max()) * 64 == pytest.approx(1.0, abs=0.01)
    assert float(uniform.std()) * 64 == pytest.approx(3**-0.5, abs=0.02)
    assert zero.shape == uniform.shape == (1, width) and not zero.any()
    body: Any = tiny.policy().base_model
    assert not Critic(body, 3, HeadStart.zero).value_head.weight.any()
    assert not Critic.load(MICRO, Precision.float32, "cpu", seed=0, start=HeadStart.zero).value_head.weight.any()


def test_critic_starts_as_a_copy_and_is_saved_with_its_head(tmp_path: Path) -> None:
    critic = Critic.load(MICRO, Precision.float32, "cpu", seed=0)
    base = load_policy(MICRO, Precision.float32, "cpu")
    for name, weight in base.base_model.state_dict().items():
        assert torch.equal(weight, critic.body.state_dict()[name])
    with torch.no_grad():
        critic.value_head.weight.add_(1.0)
        next(critic.body.parameters()).add_(1.0)
    critic.save_pretrained(tmp_path)
    again = Critic.load(ModelConfig(str(tmp_path)), Precision.float32, "cpu", seed=99)
    for (name, a), (_, b) in zip(critic.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert set(load_file(tmp_path / models.VALUE_HEAD)) == {"weight"}


def test_a_critic_that_goes_on_has_its_head() -> None:
    with pytest.raises(ConfigError, match=r"micro_base is not a saved critic: value_head\.safetensors is missing"):
        Critic.load(MICRO, Precision.float32, "cpu", seed=None)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _spoil(value: float) -> Callable[[Path], None]:
    """Return a function that sets one weight, of the last layer's MLP, to this value."""

    def spoil(path: Path) -> None:
        weights = load_file(path)
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        save_file(weights, path, {"format": "pt"})

    return spoil


def _scale(path: Path) -> None:
    save_file({name: weight * 1e17 for name, weight in load_file(path).items()}, path, {"format": "pt"})


def _without(path: Path) -> None:
    weights = load_file(path)
    save_file({name: weight for name, weight in weights.items() if "mlp" not in name}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (Path.unlink, "the weights cannot be loaded (Error no file named model.safetensors"),
        (_cut, "the weights cannot be loaded (Error while deserializing header"),
        (_spoil(float("nan")), "weight model.layers.1.mlp.up_proj.weight is not finite, as after training that has "),
        (_spoil(float("-inf")), "weight model.layers.1.mlp.up_proj.weight is not finite"),
        (_spoil(1e30), "weight model.layers.1.mlp.up_proj.weight is not finite"),
        (_scale, "its logits are not finite, because its weights are too large"),
        (_without, "6 weights are missing, such as model.layers.0.mlp.down_proj.weight"),
    ],
)
def test_bad_weights_are_refused_by_a_sentence(harm: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    tiny.policy().save_pretrained(tmp_path)
    harm(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError) as refused:
        load_policy(ModelConfig(str(tmp_path)), Precision.float32, "cpu")
    assert str(refused.value).startswith(f"model.path={tmp_path}") and sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    tiny.policy().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"contains no tokenizer|cannot be loaded"):
        load_tokenizer(ModelConfig(str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: {"weight": weight / 0}, "is damaged (it is not finite)"),
        (lambda weight: {"weight": weight[:, :7].contiguous()}, "is damaged (its shape is (1, 7), not (1, "),
        (lambda weight: {"other": weight}, "is damaged ('weight')"),
    ],
)
def test_a_bad_value_head_is_refused_by_a_sentence(change: Any, said: str, tmp_path: Path) -> None:
    Critic.load(MICRO, Precision.float32, "cpu", seed=0).save_pretrained(tmp_path)
    head = tmp_path / models.VALUE_HEAD
    save_file(change(load_file(head)["weight"]), head)
    with pytest.raises(ConfigError) as refused:
        Critic.load(ModelConfig(str(tmp_path)), Precision.float32, "cpu", seed=None)
    assert str(refused.value).startswith(f"{head} ") and said in str(refused.value)


@pytest.mark.parametrize("missing", [1, 40])
def test_a_tokenizer_with_more_ids_than_the_embedding_is_refused(missing: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(MICRO)
    tokenizer.save_pretrained(tmp_path)
    tiny.hf_config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    assert len(load_tokenizer(ModelConfig(str(tmp_path)))) == len(tokenizer)
    tiny.hf_config(vocab_size=len(tokenizer) - missing).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as refused:  # no weights are needed to see it
        load_tokenizer(ModelConfig(str(tmp_path)))
    assert str(refused.value) == (
        f"model.path={tmp_path}: its tokenizer has token ids up to {len(tokenizer) - 1}, but its embedding has "
        f"{len(tokenizer) - missing} rows: use the tokenizer that the model was trained with, or call "
        f"resize_token_embeddings({len(tokenizer)}) and save the model."
    )


@pytest.mark.parametrize("heads", [4, 2])
def test_float32_attention_is_attention(heads: int) -> None:
    tokens = torch.randint(5, tiny.VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
    plain_model = tiny.policy(num_key_value_heads=heads)
    ours = tiny.policy(num_key_value_heads=heads, attention="simplerl_float32")
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[1, 12:] = False
    for attention_mask in (None, mask):
        a = plain_model(tokens, attention_mask=attention_mask).logits
        b = ours(tokens, attention_mask=attention_mask).logits
        keep = mask if attention_mask is not None else torch.ones_like(mask)
        torch.testing.assert_close(a[keep], b[keep], atol=1e-5, rtol=1e-5)
    one = plain_model(tokens[:, :1]).logits, ours(tokens[:, :1]).logits
    torch.testing.assert_close(*one, atol=1e-5, rtol=1e-5)


def test_float32_attention_is_what_bfloat16_uses_on_a_cpu() -> None:
    assert load_policy(MICRO, Precision.bfloat16, "cpu").config._attn_implementation == "simplerl_float32"
    assert load_policy(MICRO, Precision.float32, "cpu").config._attn_implementation == "simplerl"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": 5.0}),
        ("gemma2", {"final_logit_softcapping": 30.0}),
    ],
)
def test_capped_logits_are_refused(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    tiny.policy(kind, **changes).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="changes its logits after the output layer"):
        load_policy(ModelConfig(path=str(tmp_path)), Precision.float32, "cpu")


@pytest.mark.parametrize(("kind", "tied"), [("qwen2", True), ("qwen2", False), ("llama", False), ("gpt2", True)])
def test_plain_heads_are_accepted(kind: str, tied: bool, tmp_path: Path) -> None:
    tiny.policy(kind, tie_word_embeddings=tied).save_pretrained(tmp_path)
    loaded = load_policy(ModelConfig(path=str(tmp_path)), Precision.float32, "cpu")
    assert (loaded.config.model_type, loaded.config.tie_word_embeddings) == (kind, tied)


def test_context_comes_from_the_model_and_may_only_shrink() -> None:
    config = load_hf_config(MICRO)
    limit = config.max_position_embeddings
    assert context_length(MICRO, config) == limit
    assert context_length(ModelConfig(path=MICRO.path, context=limit - 1), config) == limit - 1
    with pytest.raises(ConfigError, match=f"model.context={limit + 1} exceeds the {limit} positions"):
        context_length(ModelConfig(path=MICRO.path, context=limit + 1), config)


def test_loading_a_critic_from_a_policy_with_an_output_layer_is_silent(tmp_path: Path) -> None:
    """Transformers would list the layer as unexpected, with a table of a dozen lines."""
    tiny.policy(tie_word_embeddings=False).save_pretrained(tmp_path)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.addHandler(handler)
    Critic.load(ModelConfig(str(tmp_path)), Precision.float32, "cpu", seed=0)
    logger.removeHandler(handler)
    assert records == [] and logger.level == level


def test_a_model_that_does_not_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.path={tmp_path} cannot be loaded"):
        load_tokenizer(ModelConfig(path=str(tmp_path)))
    with pytest.raises(ConfigError, match=f"model.path={tmp_path} cannot be loaded"):
        load_hf_config(ModelConfig(path=str(tmp_path)))
