"""What a sweep tries: settings that are varied, and the settings that all its runs share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragcun.cli.parser import flag, from_mapping
from ragcun.config import TrainConfig
from ragcun.errors import InputError

SAMPLERS = ("grid", "random", "tpe")


@dataclass
class Settings:
    """The settings of a sweep that are one value each."""

    study: str = flag(dataclasses.MISSING, "name of the sweep")
    sampler: str = flag("tpe", "how configurations are proposed", choices=SAMPLERS)
    sampler_seed: int = flag(0, "seed of the proposals")
    trials: int | None = flag(None, "how many configurations are tried (default: the whole grid)")
    direction: str = flag("maximise", "the score is higher for better", choices=("maximise",))

    def __post_init__(self) -> None:
        if self.trials is None and self.sampler != "grid":
            raise ValueError(f"sampler {self.sampler} needs a number of trials; add 'trials: 20'")
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if self.sampler_seed < 0:
            raise ValueError(f"sampler_seed must be at least 0, got {self.sampler_seed}")


@dataclass(frozen=True)
class Parameter:
    """A setting that is varied: one of `values`, or a number from `low` to `high`.

    Attributes:
        values: all that it may be; None where it is a range without steps.
        low, high: the ends of a range, None where values are listed.
        step: distance of neighbours in a range, None where there is none.
        log: whether the range is drawn from by its logarithm.
    """

    values: tuple[Any, ...] | None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that show whether all of them are possible."""
        return (self.low, self.high) if self.low is not None else self.values or ()


@dataclass(frozen=True)
class Space:
    """A sweep as its file describes it; every value has the type of its field of `TrainConfig`."""

    source: str
    settings: Settings
    base: dict[str, Any]
    parameters: dict[str, Parameter]
    seeds: tuple[int, ...]

    def config(self, chosen: Mapping[str, Any], **more: Any) -> TrainConfig:
        """Return the settings of one run: the base, the chosen values over it, and what the sweep itself sets."""
        return checked({**self.base, **chosen, **more}, self.source)

    def grid(self) -> list[dict[str, Any]]:
        """Return all configurations, the last parameter varying fastest.

        Raises:
            InputError: a parameter is a range without steps.
        """
        columns = []
        for name, parameter in self.parameters.items():
            if parameter.values is None:
                raise InputError(f"{self.source}: sampler grid cannot list {name}, a range; give its values or a step")
            columns.append(parameter.values)
        return [dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*columns)]

    @property
    def limit(self) -> int:
        """How many configurations are tried at most."""
        sizes = [None if each.values is None else len(each.values) for each in self.parameters.values()]
        known = [size for size in sizes if size is not None]
        size = math.prod(known) if len(known) == len(sizes) else None
        return min(number for number in (self.settings.trials, size) if number is not None)

    def variations(self) -> list[TrainConfig]:
        """Return a configuration for each end of each parameter, the others at their first value."""
        first = {name: parameter.ends[0] for name, parameter in self.parameters.items()}
        pairs = [(name, value) for name, parameter in self.parameters.items() for value in parameter.ends]
        return [self.config({**first, name: value}, seed=self.seeds[0]) for name, value in pairs]

    def to_dict(self) -> dict[str, Any]:
        """Return what decides proposals and scores: all but the number of trials."""
        settings = {name: value for name, value in dataclasses.asdict(self.settings).items() if name != "trials"}
        parameters = {name: dataclasses.asdict(parameter) for name, parameter in self.parameters.items()}
        listed = {name: each | {"values": each["values"] and list(each["values"])} for name, each in parameters.items()}
        return settings | {"base": self.base, "parameters": listed, "seeds": list(self.seeds)}


def checked(values: Mapping[str, Any], where: str) -> TrainConfig:
    """Build the settings of a run.

    Raises:
        InputError: a name or a value is not possible; the message begins with `where`.
    """
    try:
        return from_mapping(TrainConfig, values, where)
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
