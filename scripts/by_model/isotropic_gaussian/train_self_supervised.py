"""``ragcun train`` of an isotropic Gaussian encoder: predict one part of a document from another."""

from pathlib import Path

from ragcun.cli.main import script
from ragcun.options import read_yaml

RUN = {"pair_method": "half", "output_dir": "checkpoints/isotropic_gaussian/self_supervised"}

if __name__ == "__main__":
    script("train", read_yaml(Path(__file__).with_name("notes.yaml")) | RUN, {"split_method": "pair_method"})
