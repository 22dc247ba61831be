"""Train an isotropic Gaussian encoder to predict the embedding of a text (x) from that of its masked text (y)."""

from pathlib import Path

from ragcun.cli.parser import parse_config, run_script
from ragcun.cli.train import train
from ragcun.config import TrainConfig
from ragcun.options import read_yaml

RUN = {"pair_method": "mask_mixed", "output_dir": "checkpoints/isotropic_gaussian/xy_masked"}
DEFAULTS = read_yaml(Path(__file__).with_name("notes.yaml")) | RUN


def main() -> None:
    print(train(parse_config(TrainConfig, __doc__, defaults=DEFAULTS, aliases={"input_xy_pairs": "train_data"})))


if __name__ == "__main__":
    run_script(main)
