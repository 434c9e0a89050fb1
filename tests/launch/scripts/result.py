"""Prints the bits of a trained model, in the way in which a script could print anything."""

import hashlib
import sys


def show(*models):
    digest = hashlib.blake2s()
    for model in models:
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    sys.stdout.write(f"{digest.hexdigest()}\n")  # one write: the ranks of torchrun share stdout
