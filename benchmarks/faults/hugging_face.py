"""Tiny models of Hugging Face's transformers, made from a configuration; nothing is downloaded.

Skipped where transformers is not installed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from benchmarks.faults import proofs
from benchmarks.faults.data import CLASSES, TOKENS, images, sentences, tokens
from benchmarks.faults.program import Parts, Program, Sick, sick

__all__ = ["SICK", "SOUND"]

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def _model(name: str) -> Any:  # Any: transformers is optional
    """Return a model in training mode with two layers of width 32."""
    import transformers as hf  # noqa: PLC0415 - optional, and slow to import

    if name == "gpt2":
        config = hf.GPT2Config(vocab_size=TOKENS, n_positions=16, n_embd=32, n_layer=2, n_head=2)
        return hf.GPT2LMHeadModel(config)
    if name == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=TOKENS, **_SMALL))
    if name == "bert":
        config = hf.BertConfig(
            vocab_size=TOKENS, num_labels=CLASSES, max_position_embeddings=16, **_SMALL
        )
        return hf.BertForSequenceClassification(config)
    if name == "t5":
        config = hf.T5Config(
            vocab_size=TOKENS, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            decoder_start_token_id=0, pad_token_id=0,
        )  # fmt: skip
        return hf.T5ForConditionalGeneration(config)
    config = hf.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=CLASSES, **_SMALL)
    return hf.ViTForImageClassification(config)


def _train(
    name: str, model: Any, optimizer: torch.optim.Optimizer | None = None, pixels: float = 1.0
) -> Parts:
    """Return a training with the loss that the model computes. pixels: the factor on images."""

    def loss(_step: int) -> Tensor:
        if name in ("gpt2", "llama"):
            x, _ = sentences(16, 8)
            out = model(input_ids=x, labels=x)
        elif name == "t5":
            x, y = sentences(16, 8)
            out = model(input_ids=x, labels=y.contiguous())
        elif name == "bert":
            x, y = tokens(16)
            out = model(input_ids=x, labels=y, attention_mask=torch.ones_like(x))
        else:
            x, y = images(16)
            out = model(pixel_values=x * pixels + (pixels > 1) * 3 * pixels, labels=y)
        found: Tensor = out.loss
        return found

    return Parts(model, [optimizer or AdamW(model.parameters(), 2e-3)], loss)


def _left_out(is_sick: bool) -> Parts:
    model = _model("bert")
    held = [
        p for name, p in model.named_parameters() if not (is_sick and name.startswith("classifier"))
    ]
    return _train("bert", model, AdamW(held, 2e-3))


def _frozen(is_sick: bool) -> Parts:
    model = _model("gpt2")
    model.transformer.h[1].requires_grad_(not is_sick)
    return _train("gpt2", model)


def _as_loaded(is_sick: bool) -> Parts:
    """from_pretrained returns a model in eval mode, and train() is not called."""
    model = _model("gpt2").train(not is_sick)
    parts = _train("gpt2", model)
    return Parts(model, parts.optimizers, parts.loss, measure=lambda: float(model.training))


def _untied(is_sick: bool) -> Parts:
    model = _model("gpt2")

    def before(step: int) -> None:
        if step == 2 and is_sick:
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())

    parts = _train("gpt2", model)
    return Parts(
        model, parts.optimizers, parts.loss, before=before,
        measure=lambda: float(model.lm_head.weight is model.transformer.wte.weight),
    )  # fmt: skip


def _bytes(is_sick: bool) -> Parts:
    parts = _train("vit", _model("vit"), pixels=40.0 if is_sick else 1.0)
    return Parts(parts.model, parts.optimizers, parts.loss, measure=lambda: 255.0 if is_sick else 6.0)


def _high_rate(is_sick: bool) -> Parts:
    model = _model("llama")
    return _train("llama", model, AdamW(model.parameters(), 0.3 if is_sick else 3e-3))


def _lost(is_sick: bool) -> Parts:
    model = _model("llama").to(torch.bfloat16 if is_sick else torch.float32)
    weights = [p for p in model.parameters() if p.dim() > 1]
    start = [p.detach().clone() for p in weights]

    def share() -> float:
        same = sum(int((p == s).sum()) for p, s in zip(weights, start, strict=True))
        return same / sum(p.numel() for p in weights)

    parts = _train("llama", model, AdamW(model.parameters(), 2e-6))
    return Parts(model, parts.optimizers, parts.loss, measure=share)


SICK: tuple[Sick, ...] = (
    sick(
        "BERT: the classifier is in no optimizer",
        "not-in-optimizer",
        "classifier",
        _left_out,
        proofs.moved("classifier"),
    ),
    sick(
        "GPT-2: a block is frozen",
        "frozen",
        "transformer.h.1.attn.c_attn transformer.h.1.ln_1 transformer.h.1.attn.c_proj",
        _frozen,
        proofs.moved("transformer.h.1"),
    ),
    sick(
        "GPT-2: in eval mode, as loaded",
        "eval-mode",
        "transformer.drop",
        _as_loaded,
        proofs.lower("training mode", 2),
    ),
    sick(
        "GPT-2: tied weights are untied",
        "tied-weights-broken",
        "transformer.wte lm_head",
        _untied,
        proofs.lower("one tensor", 2),
    ),
    sick("ViT: pixels from 0 to 255", "input-scale", "", _bytes, proofs.higher("largest input", 20)),
    sick(
        "Llama: a learning rate of 0.3", "learning-rate-too-high", "", _high_rate, proofs.higher_loss(2)
    ),
    sick(
        "Llama: bf16 weights with a rate of 2e-6",
        "lost-updates learning-rate-too-low",
        "",
        _lost,
        proofs.higher("share of weights that did not change", 3),
    ),
)
"""Programs with a fault."""

_NAMES = {"gpt2": "GPT-2", "llama": "Llama", "bert": "BERT", "t5": "T5", "vit": "ViT"}

SOUND: tuple[Program, ...] = tuple(
    Program(shown, lambda name=name: _train(name, _model(name))) for name, shown in _NAMES.items()
)
"""Programs without a fault."""
