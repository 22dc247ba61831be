"""Random rows that are neither centred nor isotropic, and a rotation."""

from __future__ import annotations

import torch


def normal(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=dtype) * torch.linspace(0.5, 2, dim, dtype=dtype) + 0.3


def rotation(dim: int) -> torch.Tensor:
    return torch.linalg.qr(normal(dim, dim, seed=9))[0]


def covariance_by_loop(z: torch.Tensor) -> list[list[float]]:
    rows = z.tolist()
    n, dim = len(rows), len(rows[0])
    mean = [sum(row[d] for row in rows) / n for d in range(dim)]
    return [
        [sum((row[a] - mean[a]) * (row[b] - mean[b]) for row in rows) / (n - 1) for b in range(dim)] for a in range(dim)
    ]
