"""What a run is, how to repeat it, how it went, and what is missing: one run as the page shows it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ragcun.reporting.html import evaluation, examples, isotropy
from ragcun.reporting.html.gather import Run
from ragcun.reporting.html.layout import shown
from ragcun.reporting.html.pictures import Missing, Picture, picture
from ragcun.reporting.plots import loss_figure, rank_figure
from ragcun.reporting.tables import ABSENT

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RunView:
    """One run as the page shows it.

    Attributes:
        run: the run.
        anchor: what the identifiers of its sections begin with.
        facts: what it is, as names and values.
        state: what has to be said of its state first; empty for a finished run whose training helped.
        environment: versions, commit and digests, as names and values.
        commands: how to repeat it, each with a title.
        curves: its curves, or why there are none.
        looks: how often the collapse monitor looked.
        collapses: what it found, step and message.
        evaluations: its results.
        examples: for each results file, the queries that gained and lost most on each dataset.
        isotropy: its embeddings' geometry.
        todo: commands for what is missing, by what it is.
    """

    run: Run
    anchor: str
    facts: Facts
    state: Sequence[str]
    environment: Facts
    commands: Facts
    curves: Sequence[Picture | Missing]
    looks: int
    collapses: Sequence[tuple[str, str]]
    evaluations: Sequence[evaluation.EvaluationView]
    examples: Sequence[Sequence[examples.Examples | examples.NoExamples]]
    isotropy: Sequence[isotropy.IsotropyView]
    todo: dict[str, str]


def view(run: Run, number: int, data_dir: Path | None = None) -> RunView:
    """Lay out one run.

    Raises:
        InputError: a file of the run, of its results or of their runs is wrong.
    """
    return RunView(
        run=run,
        anchor=f"run-{number}",
        facts=_facts(run),
        state=_state(run),
        environment=_environment(run),
        commands=_commands(run),
        curves=_curves(run),
        looks=len(run.rows.get("probe", ())),
        collapses=[(shown(row.get("step")), shown(row.get("message"))) for row in run.rows.get("collapse", ())],
        evaluations=[evaluation.view(file) for file in run.evaluations],
        examples=[examples.examples(file, data_dir) for file in run.evaluations],
        isotropy=[isotropy.view(file, run) for file in run.isotropy],
        todo=_todo(run, data_dir),
    )


def _facts(run: Run) -> Facts:
    config, result = run.config, run.manifest.get("result") or {}
    data = next((config[name] for name in ("train_data", "documents", "corpus") if config.get(name)), None)
    start = f", starts {config['head_init']}" if config.get("head_init") else ""
    head = f"{shown(config.get('head'))}{start}"
    base = f"{shown(config.get('base_model'))}, {'frozen' if config.get('freeze_base') else 'trained in part or whole'}"
    chosen = (
        f"epoch {shown(result.get('best_epoch'))}, chosen by {shown(result.get('criterion'))}" if result else "none yet"
    )
    facts = [("base model", base), ("system", config.get("system")), ("head", head), ("training data", data)]
    facts += [("seed", config.get("seed")), ("kept", chosen)]
    if result.get("score") is not None:
        before = "" if result.get("base_score") is None else f" (untouched base {result['base_score']:.4f})"
        facts.append((f"{shown(result.get('criterion'))} of the kept epoch", f"{abs(result['score']):.4f}{before}"))
    if result:
        facts.append(("training", f"{shown(result.get('steps'))} steps in {result.get('seconds', 0.0):,.1f} s"))
    return [(name, shown(value)) for name, value in facts]


def _state(run: Run) -> list[str]:
    """Return what a reader has to know first."""
    result, said = run.manifest.get("result") or {}, []
    if not run.manifest:
        said.append("The run has no manifest.json: it is not known how it was made.")
    elif run.manifest.get("status") != "finished":
        said.append(f"The run is not finished (status: {shown(run.manifest.get('status'))}); it has no kept model yet.")
    if result.get("best_epoch") == 0:
        said.append("No epoch was better than the start: the checkpoint is the model before training.")
    if result.get("comparison"):
        said.append(f"{str(result['comparison']).rstrip('.')}.")
    return said


def _environment(run: Run) -> Facts:
    manifest = run.manifest
    dirty = shown(manifest.get("git_dirty")) if manifest.get("git_commit") else ABSENT
    facts = [("git commit", shown(manifest.get("git_commit"))), ("uncommitted changes", dirty)]
    facts += [(name, shown(manifest.get(name))) for name in ("seed", "device", "platform", "started", "python")]
    facts += [(f"package {name}", shown(version)) for name, version in (manifest.get("packages") or {}).items()]
    digests = (manifest.get("data_sha256") or {}).items()
    facts += [(f"SHA-256 of the data, {name}", shown(digest)) for name, digest in digests]
    return [*facts, ("fingerprint of the base", shown(manifest.get("base_fingerprint")))] if manifest else []


def _commands(run: Run) -> Facts:
    again = command("train", "--config", run.folder / "config.yaml", "--output_dir", f"{run.folder}-again")
    started = run.manifest.get("command")
    before = [] if started is None else [("as it was started", f"python {started}")]
    return [*before, ("again, from the whole configuration", again)]


def _curves(run: Run) -> list[Picture | Missing]:
    if not run.rows.get("step"):
        return [Missing("the run has not recorded a training step")]
    alt = f"Training curves of {run.name} over steps: total loss, its terms, and the dev score where there is one"
    curves: list[Picture | Missing] = [
        picture(loss_figure(run.metrics), alt, "Loss, its unweighted terms, and scores.")
    ]
    ranks = rank_figure(run.metrics)
    if ranks is not None:
        shows = f"Effective rank of queries and documents of {run.name} over steps"
        curves.append(picture(ranks, shows, "Effective rank of a fixed probe batch."))
    return curves


def _todo(run: Run, data_dir: Path | None) -> dict[str, str]:
    """Return the commands that make what is missing."""
    places = [file.content["manifest"].get("data_dir") for file in run.evaluations]
    data = next((place for place in (data_dir, *places) if place), "data")
    if run.manifest.get("status") not in (None, "finished"):
        return {"finish": command("train", "--config", run.folder / "config.yaml", "--resume")}
    todo, model = {}, ("--model_path", run.checkpoint, "--data_dir", data)
    if not run.evaluations:
        output = ("--baseline", "bm25", "--output_file", run.folder / "results.json")
        todo["evaluation"] = command("evaluate_beir", *model, *output)
    if not run.isotropy:
        names = [name for file in run.evaluations for name in file.datasets][:1] or ["NAME"]
        todo["isotropy"] = command(
            "compute_isotropy", *model, "--datasets", *names, "--output_dir", run.folder / "isotropy"
        )
    return todo


def command(script: str, *arguments: object) -> str:
    """Return a command line that a shell takes as it is."""
    return shlex.join(["python", f"scripts/{script}.py", *map(str, arguments)])
