"""Random rows that are neither centred nor isotropic, and a rotation."""

import torch


def normal(n: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=dtype) * torch.linspace(0.5, 2, dim, dtype=dtype) + 0.3


def rotation(dim: int) -> torch.Tensor:
    return torch.linalg.qr(normal(dim, dim, seed=9))[0]
