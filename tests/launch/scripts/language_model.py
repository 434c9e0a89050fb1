"""An LSTM language model that updates its parameters itself, in the style of PyTorch's word_language_model."""

import sys

import torch
from result import show
from torch import nn


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp, nhid):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, 2, dropout=0.2)
        self.decoder = nn.Linear(nhid, ntoken)

    def forward(self, tokens, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(tokens)), hidden)
        return self.decoder(self.drop(output)).flatten(0, 1), hidden


torch.manual_seed(1111)
corpus = torch.randint(30, (8 * 12 + 1, 4))
model = RNNModel(30, 12, 16)
criterion = nn.CrossEntropyLoss()
hidden = (torch.zeros(2, 4, 16), torch.zeros(2, 4, 16))
lr = 0.5
if "--watched" in sys.argv:
    import gradscope

    scope = gradscope.attach(model, every=1, hub=None, quiet=True)
for i in range(0, 96, 8):
    model.zero_grad()
    hidden = tuple(h.detach() for h in hidden)
    output, hidden = model(corpus[i : i + 8], hidden)
    loss = criterion(output, corpus[i + 1 : i + 9].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-lr)
    if "--watched" in sys.argv:
        scope.mark_step()
        kinds = {kind.partition(".")[0] for rows in scope.latest().values() for kind in rows}
        sys.stderr.write(f"{scope.latest().step} {sorted(kinds)} {scope.faults}\n")
    print(f"batch {i // 8} | loss {loss.item():.6f}")
show(model)
