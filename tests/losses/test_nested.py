"""Nested sizes: cut embeddings, and the contrastive loss as the mean over sizes."""

import pytest
import torch

from ragcun.batch import Views
from ragcun.losses.objective import Objective, cut_rows, cut_views

DIM = 12


@pytest.fixture(params=[True, False], ids=["length 1", "free length"])
def views(request):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, DIM, generator=generator, dtype=torch.float64) for n in (6, 6, 6, 9)]
    if request.param:
        rows = [z / z.norm(dim=1, keepdim=True) for z in rows]
    known = torch.zeros(6, 9, dtype=torch.bool)
    known[0, 3] = True
    return Views(*rows[:3], pool=rows[3], pool_relevant=known)


@pytest.mark.parametrize("dim", [1, 5, DIM - 1])
def test_cut_rows_are_the_first_dimensions_and_keep_length_1(views, dim):
    unit = bool((views.query.norm(dim=1) - 1).abs().max() < 1e-9)
    cut = cut_views(views, dim)
    for name in ("query", "positive", "negative", "pool"):
        whole, part = getattr(views, name), getattr(cut, name)
        expected = whole[:, :dim]
        if unit:
            expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(part, expected)
    assert cut.pool_relevant is views.pool_relevant


def test_the_loss_is_the_mean_over_sizes(views):
    nested = Objective(contrastive="infonce", nested_dims=(3, 7), temperature=0.3)
    plain = Objective(contrastive="infonce", temperature=0.3)
    values = [plain(each).terms["contrastive"] for each in (views, cut_views(views, 3), cut_views(views, 7))]
    torch.testing.assert_close(nested(views).terms["contrastive"], torch.stack(values).mean())


@pytest.mark.parametrize("dim", [DIM, DIM + 1, 0])
def test_a_size_has_to_be_below_the_full_one(views, dim):
    with pytest.raises(ValueError, match="nested_dims must be below 12"):
        cut_views(views, dim)


def test_rows_of_zeros_stay_zeros_when_cut():
    assert cut_rows(torch.tensor([[0.0, 0.0, 1.0]]), 2, unit=True).tolist() == [[0.0, 0.0]]
