"""Train an isotropic Gaussian encoder on query-document pairs: contrastive, isotropy and predictive losses."""

from ragcun.cli import parse_config, run_script
from ragcun.commands import train
from ragcun.training.config import TrainConfig

LOSSES = {"lambda_contrastive": 1.0, "lambda_isotropy": 1.5, "use_predictor": True, "lambda_predictive": 1.2}
RUN = {"epochs": 3, "batch_size": 32, "output_dir": "checkpoints/isotropic_gaussian/contrastive"}


def main() -> None:
    print(train(parse_config(TrainConfig, __doc__, defaults={"system": "isotropic_gaussian"} | LOSSES | RUN)))


if __name__ == "__main__":
    run_script(main)
