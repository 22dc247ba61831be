"""``ragcun train`` of an isotropic Gaussian encoder: predict one part of a document from another."""

from ragcun.cli.main import script
from ragcun.options import read_config

RUN = {"pair_method": "half", "output_dir": "checkpoints/isotropic_gaussian/self_supervised"}

if __name__ == "__main__":
    script("train", read_config("by_model") | RUN, {"split_method": "pair_method"})
