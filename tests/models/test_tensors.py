"""Named tensors: a checksum that sees every change, and loading that is all or nothing."""

import pytest
import torch

from ragcun.tensors import copy_strictly, tensors_digest


def some() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.randn(3, 4, generator=generator), "b": torch.tensor(2.0), "c": torch.arange(5)}


def test_checksum_ignores_order_and_layout():
    tensors = some()
    turned = {name: tensors[name] for name in reversed(tensors)}
    turned["a"] = tensors["a"].T.contiguous().T
    assert not turned["a"].is_contiguous()
    assert tensors_digest(turned) == tensors_digest(tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["a"][1, 2].copy_(torch.nextafter(tensors["a"][1, 2], torch.tensor(9.0))),
        lambda tensors: tensors.update(z=tensors.pop("a")),
        lambda tensors: tensors.update(a=tensors["a"].reshape(4, 3)),
        lambda tensors: tensors.update(a=tensors["a"].view(torch.int32)),
        lambda tensors: tensors.update(c=tensors["c"].bfloat16()),
        lambda tensors: tensors.update(d=torch.zeros(0)),
        lambda tensors: tensors.pop("c"),
    ],
)
def test_checksum_sees_every_change(change):
    tensors = some()
    change(tensors)
    assert tensors_digest(tensors) != tensors_digest(some())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"c": None}, "'c'"), ({"d": torch.zeros(1)}, "'d'"), ({"c": torch.zeros(6)}, r"\(6,\), expected \(5,\)")],
)
def test_copy_is_all_or_nothing(change, message):
    target = {name: torch.zeros_like(tensor) for name, tensor in some().items()}
    source = {name: tensor for name, tensor in (some() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        copy_strictly(target, source)
    assert not any(tensor.any() for tensor in target.values())
