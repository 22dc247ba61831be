"""``ragcun train``, whose flags are `ragcun.config.TrainConfig`, and ``ragcun sweep``: many such runs."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.options import check_one_of, flag

RECIPE = (
    "recipe: ragcun's own, the best we measured (closed-form whitening, linear heads, InfoNCE, mined negatives); "
    "the founding notes' recipe is --config notes"
)
logger = logging.getLogger(__name__)


def run(options: TrainConfig) -> str:
    """Train, draw the loss curve into the run folder, and return a summary; of several processes the main one does."""
    from accelerate import PartialState

    from ragcun.reporting.plots import loss_figure, write_png
    from ragcun.training.guards import TrainingStopped
    from ragcun.training.loop import fit
    from ragcun.training.run_dir import RunFolder

    if "config" not in options.given:
        logger.info(RECIPE)
    try:
        result = fit(options)
    except TrainingStopped as stopped:
        logger.warning("%s", stopped)
        raise SystemExit(stopped.code) from None
    if not PartialState().is_main_process:
        return ""
    folder = RunFolder(options.output_dir)
    if result.steps:
        write_png(loss_figure(folder.metrics), folder.loss_curve)
    score = "" if result.score is None else f" {abs(result.score):.4f}"
    base = "" if result.base_score is None else f" (untouched base {result.base_score:.4f})"
    compared = f"{result.comparison}\n" if result.comparison else ""
    skipped = f"{result.skipped} steps left out: loss or gradient not finite\n" if result.skipped else ""
    return (
        f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}\n{compared}{skipped}"
        f"{result.steps} steps in {result.seconds:.1f} s; checkpoint: {result.checkpoint}"
    )


@dataclass(kw_only=True)
class SweepOptions:
    """Flags of ``ragcun sweep``."""

    title: ClassVar[str] = "sweep"
    config: str = flag(MISSING, "YAML file of the sweep, or a packaged one, such as sweeps/lambda", metavar="FILE")
    output_dir: str = flag(MISSING, "folder of the sweep: its log, report.md and best_config.yaml")
    trials: int | None = flag(None, "number of configurations, instead of the file's", at_least=1)
    keep_runs: bool = flag(False, "keep the run folders of all trials, under runs/")
    resume: bool = flag(False, "resume the sweep in --output_dir, or start where there is none")
    overwrite: bool = flag(False, "replace an earlier sweep in --output_dir")

    def __post_init__(self) -> None:
        check_one_of(self, "resume", "overwrite", needed=False)


def sweep(options: SweepOptions) -> str:
    """Run a sweep, or what is left of it, write its report and best settings, and return a summary."""
    if importlib.util.find_spec("optuna") is None:
        raise InputError("sweeps need the package optuna: pip install 'ragcun[sweeps]'")
    import yaml

    from ragcun.io import claim_folder, write_json, write_text
    from ragcun.sweeps.space import check_inputs, read_space
    from ragcun.sweeps.study import markdown, run_sweep, summarise

    space = read_space(options.config, options.trials)
    data = check_inputs(space)
    folder = Path(options.output_dir)
    log, report, settings = folder / "study.log", folder / "report.md", folder / "best_config.yaml"
    old = (folder / "runs", log, report.with_suffix(".json"), report, settings)
    claim_folder(folder, "sweep", log, old, options.resume, options.overwrite)
    figures = summarise(space, run_sweep(space, folder, data, options.keep_runs), folder)
    write_json(report.with_suffix(".json"), figures)
    write_text(report, markdown(figures))
    best = figures["best"]
    if best is None:
        why = figures["rows"][0]["message"]
        raise InputError(f"all {figures['trials']} trials failed, the first one because: {why}")
    write_text(settings, yaml.safe_dump(best["settings"], sort_keys=False, allow_unicode=True))
    return f"{markdown(figures)}\nreport: {report}, settings: {settings}"
