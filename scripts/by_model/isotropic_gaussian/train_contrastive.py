"""``ragcun train`` of an isotropic Gaussian encoder on query-document pairs."""

from ragcun.cli.main import script
from ragcun.options import read_config

RUN = {"lambda_contrastive": 1.0, "output_dir": "checkpoints/isotropic_gaussian/contrastive"}

if __name__ == "__main__":
    script("train", read_config("by_model") | RUN)
