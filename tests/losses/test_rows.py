"""What losses and transforms of rows share: their gradients, the order of rows, autocast, and the rows they need."""

import functools
from collections.abc import Callable

import pytest
import torch

from ragcun.losses import covariance as moments
from ragcun.losses.contrastive import info_nce, margin_loss
from ragcun.losses.objective import TRANSFORMS, predictive_error, residual_penalty, variance_regularisation
from ragcun.losses.sigreg import KNOTS, sigreg
from tests.losses.helpers import normal

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **TRANSFORMS,
    "scale_free": moments.covariance_isotropy,
    "absolute": functools.partial(moments.covariance_isotropy, form="absolute"),
    "variance": variance_regularisation,
    "gor": moments.global_orthogonal_regularization,
    "hinge": moments.variance_hinge,
    "off_diagonal": moments.off_diagonal_covariance,
    "vicreg": moments.variance_covariance,
    "residual": residual_penalty,
    "predictive": lambda z: predictive_error(z, z.flip(1), stop_gradient=False),
    "margin": lambda z: margin_loss(z, z.flip(1)),
    "infonce": lambda z: info_nce(z, z.flip(1)),
    **{f"sigreg {knots}": functools.partial(sigreg, step=1, num_slices=4, knots=knots) for knots in KNOTS},
}
TAKE_ONE_ROW = ["none", "sqrt_dim", "residual", "predictive", *(name for name in FUNCTIONS if "sigreg" in name)]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("n", "dim"), [(5, 9), (9, 4), (4, 4), (2, 6)])
def test_gradients(name, n, dim):
    assert torch.autograd.gradcheck(FUNCTIONS[name], (0.7 * normal(n, dim)).requires_grad_())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_order_of_rows_does_not_matter(name):
    z, order = normal(12, 8), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    expected = FUNCTIONS[name](z)
    torch.testing.assert_close(FUNCTIONS[name](z[order]), expected[order] if name in TRANSFORMS else expected)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "none"])
def test_autocast_changes_neither_values_nor_gradients(name):
    z = normal(32, 16, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (z @ z.T).dtype == torch.bfloat16
        inside = FUNCTIONS[name](z)
        assert FUNCTIONS[name](z.bfloat16()).dtype == torch.float32
    outside = FUNCTIONS[name](z)
    assert torch.equal(inside, outside)
    assert torch.equal(*(torch.autograd.grad(value.sin().sum(), z)[0] for value in (inside, outside)))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in TAKE_ONE_ROW])
def test_one_row_is_refused(name):
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        FUNCTIONS[name](torch.ones(1, 4))
