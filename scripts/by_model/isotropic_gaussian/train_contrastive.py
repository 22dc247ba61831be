"""Train an isotropic Gaussian encoder on query-document pairs: contrastive, isotropy and predictive losses."""

from pathlib import Path

from ragcun.cli.parser import parse_config, run_script
from ragcun.cli.train import train
from ragcun.config import TrainConfig
from ragcun.options import read_yaml

RUN = {"lambda_contrastive": 1.0, "output_dir": "checkpoints/isotropic_gaussian/contrastive"}
DEFAULTS = read_yaml(Path(__file__).with_name("notes.yaml")) | RUN


def main() -> None:
    print(train(parse_config(TrainConfig, __doc__, defaults=DEFAULTS)))


if __name__ == "__main__":
    run_script(main)
