"""Train an isotropic Gaussian encoder to predict the embedding of a text (x) from that of its masked text (y)."""

from ragcun.cli import parse_config, run_script
from ragcun.commands import train
from ragcun.training.config import TrainConfig

LOSSES = {"lambda_contrastive": 0.0, "lambda_isotropy": 1.5, "use_predictor": True, "lambda_predictive": 1.2}
RUN = {"epochs": 3, "batch_size": 32, "output_dir": "checkpoints/isotropic_gaussian/xy_masked"}
DEFAULTS = {"system": "isotropic_gaussian", "pair_method": "mask_mixed"} | LOSSES | RUN


def main() -> None:
    print(train(parse_config(TrainConfig, __doc__, defaults=DEFAULTS, aliases={"input_xy_pairs": "train_data"})))


if __name__ == "__main__":
    run_script(main)
