"""In which arithmetic a frozen base computes: what is asked for, and what a device does natively."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast, get_args

from ragcun.errors import InputError

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16", "float16"]
BASE_DTYPES = ("auto", *get_args(Dtype))
BASE_DTYPE_HELP = (
    "arithmetic of a frozen base's matrix products: float32, bfloat16, float16 (GPU), or auto: what the hardware does "
    "natively"
)
BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16")
"""What a processor must name, by ``torch.cpu.get_capabilities``, to multiply matrices of bfloat16 natively."""


def resolve_dtype(asked: str, device: torch.device) -> Dtype:
    """Return the arithmetic on a device: the one asked for, or for ``auto`` its native one.

    Raises:
        InputError: there is no such arithmetic, or float16 is asked for on a CPU.
    """
    if asked not in BASE_DTYPES:
        raise InputError(f"--base_dtype must be one of {', '.join(BASE_DTYPES)}, got {asked!r}")
    if asked == "float16" and device.type == "cpu":
        raise InputError("--base_dtype float16 needs a GPU; use bfloat16, auto or float32 on a CPU")
    return native_dtype(device) if asked == "auto" else cast("Dtype", asked)


def native_dtype(device: torch.device) -> Dtype:
    """Return the fastest arithmetic that a device does natively; float32 where that is not known.

    A CPU has bfloat16 where it has AVX512-BF16 or AMX, and torch has oneDNN, which uses them. A GPU has bfloat16
    where it need not be emulated, else float16.
    """
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and bfloat16_features():
        return "bfloat16"
    return "float32"


def bfloat16_features() -> list[str]:
    """Return the names of this processor's instructions for products of bfloat16 matrices; it may have none."""
    import torch

    found = torch.cpu.get_capabilities()
    return [name for name in BFLOAT16_FEATURES if found.get(name, False)]
