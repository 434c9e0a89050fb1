"""Tensors: broadcasting instead of loops, normalising pictures, devices."""

import time

import torch


def cosine_matrix(x, y):
    """Return the cosine of each row of x (n, d) with each row of y (m, d), as (n, m)."""
    return (x / x.norm(dim=1, keepdim=True)) @ (y / y.norm(dim=1, keepdim=True)).t()


def normalised_means():
    """Return the channel means of a grey ImageNet picture after normalisation."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    picture = torch.full((1, 3, 224, 224), 0.5)
    return ((picture - mean) / std).mean((0, 2, 3))


def matmul_times(device):
    """Return milliseconds of a matrix product at 8, 64 and 256."""
    times = {}
    for size in (8, 64, 256):
        a = torch.randn(size, size, device=device)
        a @ a
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        times[size] = (time.perf_counter() - start) * 100
    return times


if __name__ == "__main__":
    x, y = torch.randn(11, 8), torch.randn(17, 8)
    reference = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    print(
        "cosines:",
        tuple(cosine_matrix(x, y).shape),
        "close:",
        torch.allclose(cosine_matrix(x, y), reference, atol=1e-6),
    )
    print("channel means:", [round(v, 4) for v in normalised_means().tolist()])
    print("devices: cpu", torch.get_num_threads(), "threads; cuda", torch.cuda.device_count())
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        print(f"matmul on {device}:", {k: f"{v:.4f} ms" for k, v in matmul_times(device).items()})
    try:
        torch.ones(2) + torch.ones(2, device="meta")
    except RuntimeError as error:
        print("mixed devices:", str(error).splitlines()[0][:80])
