"""Train an isotropic Gaussian encoder to predict the embedding of one part of a document from another part."""

from pathlib import Path

from ragcun.cli.parser import parse_config, run_script
from ragcun.cli.train import train
from ragcun.config import TrainConfig
from ragcun.options import read_yaml

RUN = {"pair_method": "half", "output_dir": "checkpoints/isotropic_gaussian/self_supervised"}
DEFAULTS = read_yaml(Path(__file__).with_name("notes.yaml")) | RUN


def main() -> None:
    print(train(parse_config(TrainConfig, __doc__, defaults=DEFAULTS, aliases={"split_method": "pair_method"})))


if __name__ == "__main__":
    run_script(main)
