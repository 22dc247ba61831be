"""``ragcun sweep``: the settings of a sweep's file tried, and the files that it leaves."""

from __future__ import annotations

import importlib.util
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

from ragcun.errors import InputError
from ragcun.options import check_bounds, check_one_of, flag


@dataclass(kw_only=True)
class Options:
    """Flags of ``ragcun sweep``."""

    title: ClassVar[str] = "sweep"
    config: str = flag(MISSING, "YAML file of the sweep, or a packaged one, such as sweeps/lambda", metavar="FILE")
    output_dir: str = flag(MISSING, "folder of the sweep: its log, report.md and best_config.yaml")
    trials: int | None = flag(None, "number of configurations, instead of the file's", at_least=1)
    keep_runs: bool = flag(False, "keep the run folders of all trials, under runs/")
    resume: bool = flag(False, "resume the sweep in --output_dir, or start where there is none")
    overwrite: bool = flag(False, "replace an earlier sweep in --output_dir")

    def __post_init__(self) -> None:
        check_bounds(self)
        check_one_of(self, "resume", "overwrite", needed=False)


def run(options: Options) -> str:
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
        raise InputError(
            f"all {figures['trials']} trials failed, the first one because: {figures['rows'][0]['message']}"
        )
    write_text(settings, yaml.safe_dump(best["settings"], sort_keys=False, allow_unicode=True))
    return f"{markdown(figures)}\nreport: {report}, settings: {settings}"
