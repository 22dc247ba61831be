"""What a sweep tries: the YAML file, every name and value of which is checked as `TrainConfig` checks it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BruteForceSampler, RandomSampler, TPESampler

from ragcun.config import ObjectiveConfig, TrainConfig
from ragcun.errors import InputError
from ragcun.options import find_config, flag, from_mapping, read_yaml
from ragcun.training.setup import build_data, build_encoder

RESERVED = {"output_dir", "resume", "overwrite", "seed"}
CRITERIA = ("val_data", "dev_beir", "dev_split", "dev_fraction")
OBJECTIVE = {field.name for field in dataclasses.fields(ObjectiveConfig)} | {"batch_size"}
SAMPLERS = {"grid": BruteForceSampler, "random": RandomSampler, "tpe": TPESampler}


@dataclass
class Settings:
    """The settings of a sweep that are one value each."""

    study: str = flag(dataclasses.MISSING, "name of the sweep")
    sampler: str = flag("tpe", "how configurations are proposed", choices=tuple(SAMPLERS))
    sampler_seed: int = flag(0, "seed of the proposals", at_least=0)
    trials: int | None = flag(None, "number of configurations (default: the whole grid)", at_least=1)
    direction: str = flag("maximise", "the score is higher for better", choices=("maximise",))

    def __post_init__(self) -> None:
        if self.trials is None and self.sampler != "grid":
            raise ValueError(f"sampler {self.sampler} needs a number of trials; add 'trials: 20'")


@dataclass(frozen=True)
class Space:
    """A sweep as its file describes it; every value has the type of its field of `TrainConfig`."""

    source: str
    settings: Settings
    base: dict[str, Any]
    parameters: dict[str, BaseDistribution]
    seeds: tuple[int, ...]

    def config(self, chosen: Mapping[str, Any], **more: Any) -> TrainConfig:
        """Return the settings of one run: the base, the chosen values over it, and `more`."""
        return from_mapping(TrainConfig, {**self.base, **chosen, **more}, self.source)

    def extremes(self) -> list[TrainConfig]:
        """Return a configuration for each listed value and each end of a range, the others at their first value."""
        ends = {
            name: each.choices if isinstance(each, CategoricalDistribution) else (vars(each)["low"], vars(each)["high"])
            for name, each in self.parameters.items()
        }
        first = {name: values[0] for name, values in ends.items()}
        return [self.config({**first, name: value}) for name, values in ends.items() for value in values]


def read_space(path: str | Path, trials: int | None = None) -> Space:
    """Read the YAML file of a sweep; `trials` replaces its own (InputError: wrong, or selects by training or test)."""
    source, given = str(path), read_yaml(find_config(path))
    base, entries, seeds = given.pop("base", {}), given.pop("parameters", {}), given.pop("seeds", [42])
    settings = from_mapping(Settings, given | ({} if trials is None else {"trials": trials}), source)
    for part, named in (("base", base), ("parameters", entries)):
        if not isinstance(named, dict) or not named:
            raise InputError(f"{source}, {part}: must be names and values of settings of ragcun train")
        if reserved := sorted(named.keys() & RESERVED):
            raise InputError(f"{source}, {part}: {reserved[0]} is set by the sweep (list seeds under seeds)")
    if wrong := sorted(entries.keys() & {*base, *CRITERIA}):
        raise InputError(f"{source}, parameters: {wrong[0]} must be the same for all; give it once, under base")
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise InputError(f"{source}: seeds must be a list of different numbers, such as [1, 2, 3]")

    def convert(part: str, name: str, value: Any) -> Any:
        needed = {} if name in ("train_data", "documents", "corpus") else {"train_data": "-"}
        return getattr(from_mapping(TrainConfig, needed | {name: value}, f"{source}, {part}"), name)

    parameters = {}
    for name, entry in entries.items():
        parameters[name] = _distribution(f"{source}, parameters, {name}", entry, partial(convert, "parameters", name))
        if settings.sampler == "grid" and getattr(parameters[name], "step", 1) is None:
            raise InputError(f"{source}, parameters, {name}: the grid needs a step; add one")
    plain = {name: convert("base", name, value) for name, value in base.items()}
    space = Space(source, settings, plain, parameters, tuple(convert("seeds", "seed", seed) for seed in seeds))
    for problem in _unfair(space):
        raise InputError(f"{source}, base: {problem}")
    return space


def _distribution(where: str, entry: Any, convert: Callable[[Any], Any]) -> BaseDistribution:
    try:
        if "values" in entry:
            values = [convert(value) for value in entry["values"]]
            if len(set(values)) < len(values):
                raise ValueError("a value is listed twice")
            return CategoricalDistribution(values, **{name: entry[name] for name in entry if name != "values"})
        low, high = convert(entry["low"]), convert(entry["high"])
        options = {name: type(low)(str(value)) if name == "step" else value for name, value in entry.items()}
        if options.get("log", False) not in (True, False):
            raise ValueError(f"log must be true or false, got {options['log']!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Optuna only warns of a range that its steps do not fill
            kind = IntDistribution if isinstance(low, int) else FloatDistribution
            return kind(**options | {"low": low, "high": high})
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, UserWarning) as error:
        forms = "{values: […]}, {low, high, step} or {low, high, log}"
        raise InputError(f"{where}: {error}; give {forms} of numbers, or values of any kind") from error


def _unfair(space: Space) -> Iterator[str]:
    # what would choose by training or test data, or by scores that differ in what they measure
    for config in space.extremes():
        named = (config.train_data, config.dev_beir, config.val_data)
        train, dev, pairs = (Path(path).resolve() if path else None for path in named)
        if not (dev or pairs or config.dev_fraction):
            yield "no dev data to choose by; add dev_beir, dev_fraction or val_data"
        if config.dev_split.strip().lower() == "test":
            yield "dev_split: test would choose settings by the test queries; name a dev split"
        if dev and dev == train and config.dev_split == "train":
            yield "dev_split: train would choose by the training queries; name a dev split"
        if pairs and pairs == train and not pairs.is_dir():
            yield "val_data is the training data; name other pairs"
    if space.base.get("dev_fraction") and "train_data" in space.parameters:
        yield "dev_fraction takes queries from train_data, which is varied; use dev_beir instead"
    varied = sorted(space.parameters.keys() & OBJECTIVE)
    if varied and not (space.base.get("dev_beir") or space.base.get("dev_fraction")):
        yield f"{varied[0]} changes the objective on val_data; add dev_beir or dev_fraction"


def check_inputs(space: Space) -> dict[str, dict[str, str]]:
    """Read all data and models that the configurations name, and return the data's hashes (InputError: not there)."""
    configs = space.extremes()
    for config in {(config.base_model, config.load_checkpoint): config for config in configs}.values():
        build_encoder(dataclasses.replace(config, lambda_predictive=0.0, lambda_residual=0.0))
    data = {str(config.train_data or config.documents): config for config in configs}
    return {name: build_data(config).hashes() for name, config in data.items()}
