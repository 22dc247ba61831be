"""Train a head (or the whole model) on pairs of texts."""

from ragcun.cli import parse_config, run_script
from ragcun.training.config import TrainConfig


def main() -> None:
    config = parse_config(TrainConfig, __doc__)

    from ragcun.reporting.plots import plot_loss_curves
    from ragcun.training.loop import fit
    from ragcun.training.runfolder import RunFolder

    result = fit(config)
    run = RunFolder(config.output_dir, resume=True)
    plot_loss_curves(run.metrics, run.loss_curve)
    score = "" if result.score is None else f" {abs(result.score):.4f}"
    base = "" if result.base_score is None else f" (untouched base {result.base_score:.4f})"
    print(f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}")
    print(f"{result.steps} steps in {result.seconds:.1f} s; checkpoint: {result.checkpoint}")


if __name__ == "__main__":
    run_script(main)
