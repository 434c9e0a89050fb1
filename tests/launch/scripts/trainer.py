"""Transformers' Trainer, with accumulation."""

import tempfile

import torch
from result import show
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

set_seed(5)
config = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
model = LlamaForCausalLM(config)
tokens = torch.randint(32, (32, 8))
data = [{"input_ids": each, "labels": each} for each in tokens]
with tempfile.TemporaryDirectory() as folder:
    settings = TrainingArguments(
        output_dir=folder,
        max_steps=6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=data)
    trainer.remove_callback(PrinterCallback)  # it prints how long the training took
    result = trainer.train()
print(result.training_loss)
show(model)
