"""Tests that are parametrised by the names of losses see every loss of the package, new files included."""

from ragcun.losses import load_losses

load_losses()
