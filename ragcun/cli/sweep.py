"""What ``scripts/sweep.py`` does: its flags, the sweep, and the files that it leaves."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ragcun.cli.parser import ArgumentParser, add_flags
from ragcun.errors import InputError
from ragcun.options import FLAGS, flag, from_mapping


@dataclass
class SweepOptions:
    """Flags of ``scripts/sweep.py``."""

    config: str = flag(dataclasses.MISSING, "YAML file of the sweep, such as configs/sweeps/lambda.yaml")
    output_dir: str = flag(dataclasses.MISSING, "folder of the sweep: its log, report.md and best_config.yaml")
    trials: int | None = flag(None, "number of configurations, instead of the file's")
    keep_runs: bool = flag(False, "keep the run folders of all trials, under runs/")
    resume: bool = flag(False, "go on with the sweep in --output_dir, or start where there is none")
    overwrite: bool = flag(False, "replace an earlier sweep in --output_dir")

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite contradict each other; give one of them")


def parse_sweep(description: str | None, arguments: list[str] | None = None) -> SweepOptions:
    """Parse the flags of `sweep`."""
    parser = ArgumentParser(description=description)
    add_flags(parser, SweepOptions)
    return from_mapping(SweepOptions, vars(parser.parse_args(arguments)), FLAGS)


def sweep(options: SweepOptions) -> str:
    """Run a sweep, or what is left of it, write its report and best settings, and return a summary.

    Raises:
        InputError: a setting or a file is wrong, Optuna is missing, or no trial succeeded.
    """
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
        raise InputError(
            f"all {figures['trials']} trials failed, the first one because: {figures['rows'][0]['message']}"
        )
    write_text(settings, yaml.safe_dump(best["settings"], sort_keys=False, allow_unicode=True))
    return f"{markdown(figures)}\nreport: {report}, settings: {settings}"
