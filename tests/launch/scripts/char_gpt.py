"""A GPT on characters, in the style of nanoGPT: accumulation, clipping, a schedule, and a compiled model.

char_gpt.py [eager | wrapped | in_place | step]
"""

import math
import sys

import torch
import torch.nn.functional as F
from result import show
from torch import nn

TEXT = "the quick brown fox jumps over the lazy dog. " * 20


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, self.heads, C // self.heads).unbind(2)
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, characters, width=16, heads=2, blocks=2, window=16):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(characters, width), nn.Embedding(window, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, characters, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


torch.manual_seed(1337)
how = sys.argv[1] if len(sys.argv) > 1 else "eager"
characters = sorted(set(TEXT))
data = torch.tensor([characters.index(c) for c in TEXT])
model = raw_model = GPT(len(characters))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
if how == "wrapped":
    model = torch.compile(model, backend="aot_eager")
if how == "in_place":
    model.compile(backend="aot_eager", fullgraph=True)


def evaluate(x, y):
    return model(x, y)[1] / 2


if how == "step":
    evaluate = torch.compile(evaluate, backend="aot_eager")

for step in range(6):
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 6))
    for _ in range(2):
        at = torch.randint(len(data) - 17, (4,))
        x = torch.stack([data[i : i + 16] for i in at])
        y = torch.stack([data[i + 1 : i + 17] for i in at])
        loss = evaluate(x, y)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    print(f"iter {step}: loss {loss.item() * 2:.6f}")
show(raw_model)
