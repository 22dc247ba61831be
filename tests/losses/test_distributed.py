"""Views of two ranks: every loss and its gradient equal those of one process that has all rows."""

import sys
from itertools import product
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ragcun.batch import Views
from ragcun.losses.gather import average_gradients, sum_over_ranks_, world_size
from ragcun.losses.objective import ISOTROPY, TRANSFORMS, Objective
from tests.processes import run_ranks, run_script

DIM, ROWS, POOL = 5, 11, 3
SPLITS = {"even": (6, 2), "uneven": (8, 3), "no pool on one": (2, 0)}
"""Rows and pool documents of the first rank; the second has the rest."""

BOTH: dict[str, Any] = {"lambda_reg": 0.3, "lambda_predictive": 0.7, "lambda_residual": 0.2}
ALONE = {"lambda_contrastive": 0.0, "lambda_isotropy": 1.0}
OBJECTIVES = {
    "infonce": Objective(),
    "infonce symmetric nested": Objective(symmetric=True, nested_dims=(2, 3), distance="cosine"),
    "infonce soft": Objective(soft_targets=True, temperature=0.5),
    "margin": Objective(contrastive="margin", margin=3.0),
    "in_batch_margin": Objective(contrastive="in_batch_margin", margin=3.0),
    "kl": Objective(contrastive="kl", temperature=0.5),
    "margin_mse": Objective(contrastive="margin_mse", nested_dims=(2,), temperature=1.0),
    "predictor": Objective(lambda_contrastive=0.0, **BOTH),
    "moving target": Objective(lambda_contrastive=0.0, lambda_predictive=1.0, stopgrad=False),
    "absolute": Objective(lambda_isotropy=0.5, isotropy_form="absolute", **BOTH),
} | {
    f"{name} {transform} {rows}": Objective(
        **ALONE, isotropy=name, isotropy_transform=transform, isotropy_rows=rows, num_slices=9
    )
    for name, transform, rows in product(ISOTROPY, TRANSFORMS, ("together", "each"))
    if name != "none"
}
ISOTROPY_ALONE = Objective(**ALONE)


def inputs() -> dict[str, Tensor]:
    """Random vectors, and masks in which two rows share a query and one pool document is an answer."""
    random = torch.Generator().manual_seed(0)
    sizes = {"query": ROWS, "positive": ROWS, "negative": ROWS, "pool": POOL}
    made = {name: torch.randn(n, DIM, generator=random, dtype=torch.float64) for name, n in sizes.items()}
    made["negative_mask"] = torch.arange(ROWS) < 2  # none on the second rank, whatever the split
    made["relevant"] = torch.eye(ROWS, dtype=torch.bool)
    made["relevant"][1, 9] = made["relevant"][9, 1] = True
    made["pool_relevant"] = torch.zeros(ROWS, POOL, dtype=torch.bool)
    made["pool_relevant"][10, 0] = made["pool_relevant"][0, 2] = True
    teacher = torch.randn(ROWS, 2 * ROWS + POOL, generator=random, dtype=torch.float64)
    teacher[:, ROWS + 2 : 2 * ROWS] = torch.nan  # of negatives that are missing
    made["teacher"] = torch.where(teacher > 1, torch.nan, teacher)
    return made


class Tiny(nn.Module):
    """Two linear maps and a predictor: the smallest model that fills all of `Views`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.query, self.document, self.delta = (nn.Linear(DIM, DIM, dtype=torch.float64) for _ in range(3))

    def forward(self, given: dict[str, Tensor]) -> Views:
        query, positive = self.query(given["query"]), self.document(given["positive"])
        delta = self.delta(query)
        rest = {name: self.document(given[name]) for name in ("negative", "pool") if name in given}
        names = ("negative_mask", "relevant", "pool_relevant", "teacher")
        masks = {name: given[name] for name in names if name in given}
        return Views(query, positive, predicted=query + delta, target=positive, residual=delta, **rest, **masks)


def share_of(rank: int, split: str) -> dict[str, Tensor]:
    """Return what one rank has; one without pool documents shows none."""
    rows, pool = (slice(0, n) if rank == 0 else slice(n, None) for n in SPLITS[split])
    shown = {name: value[pool if name == "pool" else rows] for name, value in inputs().items()}
    if not len(shown["pool"]):
        del shown["pool"]
    return shown


def outcome(model: nn.Module, given: dict[str, Tensor], objective: Objective) -> dict[str, Tensor]:
    """Return total, terms and gradients."""
    model.zero_grad()
    views = model(given)
    output = objective(views, 3)
    # DistributedDataParallel waits for the gradient of every weight, also of what a loss has no use for.
    unused = views.residual.sum() + views.positive.sum()
    (output.total + 0 * unused).backward()
    named = {name.removeprefix("module."): weight.grad.clone() for name, weight in model.named_parameters()}
    return named | {"total": output.total.detach()} | {n: v.detach().clone() for n, v in output.terms.items()}


def one_rank(rank: int, folder: str) -> None:
    """Compute all outcomes of one of two ranks."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank)
    found: dict[str, Tensor] = {}
    for split in SPLITS:
        for name, objective in OBJECTIVES.items():
            values = outcome(DistributedDataParallel(Tiny()), share_of(rank, split), objective)
            found |= {f"{split}/{name}/{key}": value for key, value in values.items()}
    found |= helpers(rank)
    save_file(found, f"{folder}/rank{rank}.safetensors")
    distributed.destroy_process_group()


def helpers(rank: int) -> dict[str, Tensor]:
    """Return what the functions beneath give on one of two ranks."""
    found = {"world": torch.tensor(world_size()), "sum": sum_over_ranks_(torch.tensor([rank + 1.0]))}
    found["alone"] = ISOTROPY_ALONE(Tiny()(share_of(rank, "even")), alone=True).total.detach()
    weight, frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([rank, 4.0])
    average_gradients([weight, frozen])
    found["average"] = weight.grad
    found["none"] = torch.tensor(frozen.grad is None)
    return {name: value.contiguous() for name, value in found.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_script(__file__, folder)
    return [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_equal_one_with_all_rows(ranks, name):
    """Values on each rank, and gradients as DistributedDataParallel leaves them, whatever the ranks' shares."""
    expected = outcome(Tiny(), inputs(), OBJECTIVES[name])
    gradients = [value for key, value in expected.items() if "." in key]
    assert any(value.abs().max() > 1e-6 for value in gradients)
    for rank, split, key in product(ranks, SPLITS, expected):
        torch.testing.assert_close(rank[f"{split}/{name}/{key}"], expected[key], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_sums_means_and_what_is_computed_alone(ranks):
    """Gradients are averaged where there are any."""
    for number, rank in enumerate(ranks):
        assert (rank["world"], rank["sum"]) == (2, 3)
        own = ISOTROPY_ALONE(Tiny()(share_of(number, "even"))).total.detach()
        torch.testing.assert_close(rank["alone"], own)
        assert rank["average"].tolist() == [0.5, 4.0]
        assert rank["none"]
    assert not torch.allclose(ranks[0]["alone"], ranks[1]["alone"])


def test_one_process_is_a_world_of_its_own():
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    average_gradients([weight])
    assert (world_size(), weight.grad.item(), sum_over_ranks_(torch.ones(1)).item()) == (1, 1, 1)


if __name__ == "__main__":
    run_ranks(one_rank, sys.argv[1])
