"""What losses and transforms of rows share: their gradients, the order of rows, autocast, and the rows they need."""

import functools
from collections.abc import Callable
from itertools import product

import pytest
import torch

from ragcun.losses.covariance import (
    covariance,
    covariance_isotropy,
    global_orthogonal_regularization,
    off_diagonal_covariance,
    variance_covariance,
    variance_hinge,
    variance_regularisation,
)
from ragcun.losses.sigreg import KNOTS, epps_pulley, sigreg
from ragcun.losses.transforms import TRANSFORMS
from tests.losses.helpers import normal

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = (
    TRANSFORMS
    | {
        "covariance": covariance,
        "scale_free": covariance_isotropy,
        "absolute": functools.partial(covariance_isotropy, form="absolute"),
        "variance": variance_regularisation,
        "gor": global_orthogonal_regularization,
        "hinge": variance_hinge,
        "off_diagonal": off_diagonal_covariance,
        "vicreg": variance_covariance,
    }
    | {
        f"{name} {form}": functools.partial(loss, **dict(zip(("knots", "n_free"), form, strict=True)))
        for name, loss in {
            "sigreg": functools.partial(sigreg, step=1, num_slices=4),
            "epps_pulley": epps_pulley,
        }.items()
        for form in product(KNOTS, (True, False))
    }
)
ALONE = ("none", "sqrt_dim", *(name for name in FUNCTIONS if name.startswith(("sigreg", "epps_pulley"))))
"""Those that take one row."""


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


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ALONE])
def test_one_row_is_refused(name):
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        FUNCTIONS[name](torch.ones(1, 4))
