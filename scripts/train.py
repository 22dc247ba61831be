"""Train a head (or the whole model) on pairs of texts."""

from ragcun.cli.parser import parse_config, run_script
from ragcun.cli.train import train
from ragcun.config import TrainConfig


def main() -> None:
    print(train(parse_config(TrainConfig, __doc__)))


if __name__ == "__main__":
    run_script(main)
