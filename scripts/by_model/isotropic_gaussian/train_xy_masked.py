"""``ragcun train`` of an isotropic Gaussian encoder: predict a text from its masked text."""

from pathlib import Path

from ragcun.cli.main import script
from ragcun.options import read_yaml

RUN = {"pair_method": "mask_mixed", "output_dir": "checkpoints/isotropic_gaussian/xy_masked"}

if __name__ == "__main__":
    script("train", read_yaml(Path(__file__).with_name("notes.yaml")) | RUN, {"input_xy_pairs": "train_data"})
