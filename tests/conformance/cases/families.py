"""Model families of Hugging Face transformers, small and with random weights. Nothing is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers as hf
from trials import Case, Trial
from trials.case import train

__all__ = ["CASES"]

TEXT = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 32}  # fmt: skip
DECODER = TEXT | {"num_key_value_heads": 1, "pad_token_id": 0, "head_dim": 8}
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
          "image_size": 16, "patch_size": 4}  # fmt: skip


def tokens() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 97, (2, 10))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def causal() -> dict[str, torch.Tensor]:
    batch = tokens()
    return batch | {"labels": batch["input_ids"].clone()}


def translated() -> dict[str, torch.Tensor]:
    return tokens() | {"labels": torch.randint(1, 97, (2, 7))}


def image() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def large_image() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def sound() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(2, 800)}


def spectrogram() -> dict[str, torch.Tensor]:
    return {"input_features": torch.randn(2, 8, 40), "labels": torch.randint(1, 97, (2, 6))}


@dataclass(frozen=True)
class Family:
    """A model's class, its configuration's, what to set in it, and what to feed it."""

    model: str
    config: str
    batch: Callable[[], dict[str, torch.Tensor]]
    sizes: dict[str, object] = field(default_factory=dict)
    is_checkpointed: bool = False
    is_reentrant: bool = False

    def __call__(self, t: Trial) -> None:
        config = getattr(hf, self.config)(**self.sizes)
        model = getattr(hf, self.model)(config)
        if self.is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": self.is_reentrant})
        t.watch(model.train())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        train(
            t, model, [self.batch() for _ in range(2)], optimizer,
            forward=lambda batch: model(**batch),
            recomputes_twice=self.is_checkpointed and not self.is_reentrant,
        )  # fmt: skip


FAMILIES = {
    "BERT": Family("BertForMaskedLM", "BertConfig", causal, TEXT),
    "RoBERTa": Family("RobertaForMaskedLM", "RobertaConfig", causal, TEXT | {"pad_token_id": 0}),
    "ELECTRA": Family("ElectraForPreTraining", "ElectraConfig", tokens, TEXT | {"embedding_size": 8}),
    "DistilBERT": Family("DistilBertModel", "DistilBertConfig", tokens, {
        "vocab_size": 97, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}),
    "DeBERTa v2": Family("DebertaV2ForMaskedLM", "DebertaV2Config", causal, TEXT | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "ALBERT, shared layers": Family("AlbertForMaskedLM", "AlbertConfig", causal, TEXT | {
        "embedding_size": 8, "num_hidden_layers": 4}),
    "ModernBERT": Family("ModernBertForMaskedLM", "ModernBertConfig", causal, TEXT | {
        "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}),
    "GPT-2": Family("GPT2LMHeadModel", "GPT2Config", causal, {
        "vocab_size": 97, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "GPT-NeoX": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", causal, TEXT),
    "OPT": Family("OPTForCausalLM", "OPTConfig", causal, {
        "vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "ffn_dim": 24, "max_position_embeddings": 32, "word_embed_proj_dim": 16, "pad_token_id": 0}),
    "BLOOM": Family("BloomForCausalLM", "BloomConfig", causal, {
        "vocab_size": 97, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "Llama": Family("LlamaForCausalLM", "LlamaConfig", causal, DECODER),
    "Mistral": Family("MistralForCausalLM", "MistralConfig", causal, DECODER),
    "Qwen 2": Family("Qwen2ForCausalLM", "Qwen2Config", causal, DECODER),
    "Gemma": Family("GemmaForCausalLM", "GemmaConfig", causal, DECODER),
    "Phi": Family("PhiForCausalLM", "PhiConfig", causal, TEXT | {"pad_token_id": 0}),
    "Mixtral, experts": Family("MixtralForCausalLM", "MixtralConfig", causal, DECODER | {
        "num_local_experts": 3, "output_router_logits": True}),
    "Qwen 2 MoE, experts": Family("Qwen2MoeForCausalLM", "Qwen2MoeConfig", causal, DECODER | {
        "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8}),
    "Mamba, state space": Family("MambaForCausalLM", "MambaConfig", causal, {
        "vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "Mamba 2, state space": Family("Mamba2ForCausalLM", "Mamba2Config", causal, {
        "vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "num_heads": 4,
        "head_dim": 8, "n_groups": 1, "chunk_size": 4}),
    "T5": Family("T5ForConditionalGeneration", "T5Config", translated, {
        "vocab_size": 97, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
        "decoder_start_token_id": 0}),
    "BART": Family("BartForConditionalGeneration", "BartConfig", translated, {
        "vocab_size": 97, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "max_position_embeddings": 32}),
    "ViT": Family("ViTForImageClassification", "ViTConfig", image, VISION),
    "ResNet": Family("ResNetForImageClassification", "ResNetConfig", large_image, {
        "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}),
    "ConvNeXt": Family("ConvNextForImageClassification", "ConvNextConfig", large_image, {
        "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4}),
    "Swin": Family("SwinModel", "SwinConfig", large_image, {
        "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
        "window_size": 4}),
    "Wav2Vec2": Family("Wav2Vec2Model", "Wav2Vec2Config", sound, TEXT | {
        "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 6), "mask_time_prob": 0.0,
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2}),
    "Whisper": Family("WhisperForConditionalGeneration", "WhisperConfig", spectrogram, {
        "vocab_size": 97, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "num_mel_bins": 8, "max_source_positions": 20,
        "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1}),
    "CLIP": Family("CLIPModel", "CLIPConfig", lambda: tokens() | image(), {
        "text_config": TEXT | {"eos_token_id": 2, "projection_dim": 8},
        "vision_config": VISION | {"projection_dim": 8}, "projection_dim": 8}),
}  # fmt: skip


def checkpointing(name: str, *, is_reentrant: bool) -> Family:
    plain = FAMILIES[name]
    return Family(
        plain.model, plain.config, plain.batch, plain.sizes,
        is_checkpointed=True, is_reentrant=is_reentrant,
    )  # fmt: skip


CASES = (
    *(Case(name, family) for name, family in FAMILIES.items()),
    *(Case(f"{name}, checkpointing, {'' if is_reentrant else 'not '}reentrant",
           checkpointing(name, is_reentrant=is_reentrant))
      for name in ("BERT", "GPT-2", "Llama", "T5", "ViT") for is_reentrant in (True, False)),
)  # fmt: skip
