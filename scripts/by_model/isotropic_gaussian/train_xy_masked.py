"""``ragcun train`` of an isotropic Gaussian encoder: predict a text from its masked text."""

from ragcun.cli.main import script
from ragcun.options import read_config

RUN = {"pair_method": "mask_mixed", "output_dir": "checkpoints/isotropic_gaussian/xy_masked"}

if __name__ == "__main__":
    script("train", read_config("by_model") | RUN, {"input_xy_pairs": "train_data"})
