"""Domain-adversarial training on scikit-learn's digits and a shifted copy, reversed by gradscope.

The labels of the second domain are never used. One head classifies the digits and a
second one the domain. The gradient at the input of the second head is reversed, on the schedule of
Ganin and Lempitsky (2015), so that the features lose the information about the domain. Without the
reversal the second head improves that information.

    python examples/interventions/domain_adversarial.py            both trainings, one after the other
    python examples/interventions/domain_adversarial.py --by-hand  reverse it yourself, in another terminal

Needs scikit-learn: pip install 'gradscope[examples]'
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradscope

STEPS = 1_000
SCHEDULE = "alpha=0:1:1000:dann"


class Network(nn.Module):
    """Features, what digit it is, and which domain it comes from."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.digit = nn.Linear(64, 10)
        self.domain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        features = self.features(x)
        return self.digit(features), self.domain(features)


def domains():
    """Return pictures (0 to 1) and labels, and the same pictures as another device might take them.

    The copy is paler, on a grey ground, and noisy.
    """
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32) / 16
    generator = torch.Generator().manual_seed(1)
    other = 0.3 + 0.7 * x + 0.1 * torch.randn(x.shape, generator=generator)
    return x.flatten(1), torch.tensor(digits.target), other.flatten(1)


def train(install=None, name=None):
    """Return the accuracy on both domains. `install(scope)` sets what is to be in force."""
    torch.manual_seed(0)
    source, labels, target = domains()
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    hub = None if name is None else "auto"
    with gradscope.attach(model, optimizer, name=name, hub=hub, quiet=name is None) as scope:
        if install is not None:
            install(scope)
        for step in range(STEPS if name is None else 30 * STEPS):
            chosen = torch.randint(len(source), (64,))
            others = torch.randint(len(target), (64,))
            digit, domain = model(torch.cat([source[chosen], target[others]]))
            from_source = torch.cat([torch.ones(64, 1), torch.zeros(64, 1)])
            loss = nn.functional.cross_entropy(digit[:64], labels[chosen])
            domain_loss = nn.functional.binary_cross_entropy_with_logits(domain, from_source)
            optimizer.zero_grad()
            (loss + domain_loss).backward()
            optimizer.step()
            if name is not None and step % 500 == 499:
                accuracies = [accuracy(model, x, labels) for x in (source, target)]
                scope.log(source_accuracy=accuracies[0], target_accuracy=accuracies[1])
                print(f"step {step + 1}: seen domain {accuracies[0]:.3f}, other {accuracies[1]:.3f}")
    return accuracy(model, source, labels), accuracy(model, target, labels)


def accuracy(model, x, labels):
    with torch.no_grad():
        return (model(x)[0].argmax(1) == labels).float().mean().item()


def main():
    if "--by-hand" in sys.argv:
        print("in another terminal:")
        print("  gradscope reverse domains domain --site input --ramp 0:1:1000:dann --keep")
        print("  gradscope remove domains --all")
        train(name="domains")
        return
    plain = train()
    adapted = train(lambda scope: scope.reverse("domain", site="input", ramp=SCHEDULE))
    print("accuracy              seen domain   other domain")
    print(f"without reversal          {plain[0]:.3f}          {plain[1]:.3f}")
    print(f"with scheduled reversal   {adapted[0]:.3f}          {adapted[1]:.3f}")


if __name__ == "__main__":
    main()
