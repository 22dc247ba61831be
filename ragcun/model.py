"""Where the founding notes import the isotropic Gaussian encoder from."""

from ragcun.models.systems import IsotropicGaussianEncoder as IsotropicGaussianEncoder
