"""What a sweep refuses: to choose by training or test data, or to judge configurations by different measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ragcun.errors import InputError
from ragcun.losses.objective import Objective
from ragcun.sweeps.space import Space
from ragcun.training.setup import build_data, build_encoder

OURS = {
    "seed": "list the seeds under seeds",
    "output_dir": "it is a flag of sweep.py",
    "resume": "it is a flag of sweep.py",
    "overwrite": "it is a flag of sweep.py",
}
"""Settings that the sweep itself makes for each run."""
JUDGES = ("val_data", "dev_beir", "dev_split", "dev_fraction")
"""Settings that say what a configuration is judged by."""
MEASURED = {field.name for field in dataclasses.fields(Objective)} | {"batch_size"}
"""Settings that change the validation objective itself."""


def check_reserved(source: str, base: Iterable[str], parameters: Iterable[str]) -> None:
    """Refuse settings that a sweep makes itself, and judges that differ between configurations.

    Raises:
        InputError: there is such a setting.
    """
    for part, names in (("base", base), ("parameters", parameters)):
        for name in names:
            if name in OURS:
                raise InputError(f"{source}, {part}: {name} is set by the sweep: {OURS[name]}")
            if part == "parameters" and name in JUDGES:
                raise InputError(f"{source}, parameters: {name} must be the same for all; move it under base")


def check_judges(space: Space) -> None:
    """Refuse a sweep that has no dev data, or would choose by test or training data.

    Raises:
        InputError: it is so.
    """
    source = space.source
    for config in space.variations():
        if not (config.dev_beir or config.dev_fraction or config.val_data):
            raise InputError(
                f"{source}, base: no dev data to choose by; add dev_beir, dev_fraction or val_data "
                "(a sweep never chooses by training or test data)"
            )
        if config.dev_split.strip().lower() == "test":
            raise InputError(
                f"{source}, base: dev_split: test would choose settings by the test queries, which then measure "
                "nothing; name a dev split, or use dev_fraction"
            )
        if _same(config.dev_beir, config.train_data) and config.dev_split == "train":
            raise InputError(f"{source}, base: dev_split: train would choose by the training queries; name a dev split")
        if _same(config.val_data, config.train_data) and not Path(str(config.val_data)).is_dir():
            raise InputError(f"{source}, base: val_data is the training data; name other pairs")
    _check_comparable(space)


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()


def _check_comparable(space: Space) -> None:
    """Refuse scores that cannot be compared between configurations."""
    base = space.base
    if base.get("dev_fraction") and "train_data" in space.parameters:
        raise InputError(
            f"{space.source}: dev_fraction takes its queries from train_data, which is varied; use dev_beir instead"
        )
    varied = sorted(space.parameters.keys() & MEASURED)
    if not (base.get("dev_beir") or base.get("dev_fraction")) and varied:
        raise InputError(
            f"{space.source}: {varied[0]} changes the objective, so configurations cannot be compared by their "
            "objective on val_data; add dev_beir or dev_fraction"
        )


def check_inputs(space: Space) -> dict[str, dict[str, str]]:
    """Read all data and models that the configurations name, and return the data's hashes.

    Raises:
        InputError: one of them is missing or wrong.
    """
    configs = space.variations()
    models = {(config.base_model, config.load_checkpoint): config for config in configs}
    for config in models.values():
        build_encoder(dataclasses.replace(config, lambda_predictive=0.0, lambda_residual=0.0))
    data = {str(config.train_data or config.documents): config for config in configs}
    return {name: build_data(config).hashes() for name, config in data.items()}
