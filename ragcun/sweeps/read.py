"""Reading the YAML file of a sweep; every name and value is checked as `TrainConfig` checks it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from ragcun.cli.parser import converters, from_mapping, read_yaml
from ragcun.config import TrainConfig
from ragcun.errors import InputError
from ragcun.sweeps.rules import check_judges, check_reserved
from ragcun.sweeps.space import Parameter, Settings, Space, checked

FORMS = "{values: […]}, {low, high, step}, or {low, high, log}"


def read_space(path: str | Path, trials: int | None = None) -> Space:
    """Read the YAML file of a sweep; `trials` replaces the file's own number.

    Raises:
        InputError: a name is unknown (with the nearest known one), or a value does not fit.
    """
    source, given = str(path), read_yaml(path)
    scalars = [field.name for field in dataclasses.fields(Settings)]
    _check_names(given, [*scalars, "base", "parameters", "seeds"], source)
    wanted = {name: given[name] for name in scalars if name in given} | ({} if trials is None else {"trials": trials})
    settings = from_mapping(Settings, wanted, source)
    base = _mapping(given.get("base"), f"{source}, base", "settings of train.py")
    entries = _mapping(given.get("parameters"), f"{source}, parameters", f"settings, each with {FORMS}")
    seeds = given.get("seeds", [42])
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise InputError(f"{source}: seeds must be a list of different numbers, such as [1, 2, 3]")
    formed = {name: _entry(source, name, entry) for name, entry in entries.items()}
    check_reserved(source, base, entries)
    space = _convert(source, settings, base, formed, seeds)
    check_judges(space)
    if settings.sampler == "grid":
        space.grid()
    return space


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; possible are {', '.join(known)}"
            raise InputError(f"{where}: unknown name {name!r}{hint}")


def _mapping(value: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        raise InputError(f"{where}: must hold {what}")
    return value


def _entry(source: str, name: str, entry: Any) -> dict[str, Any]:
    """Check the form of a parameter's entry."""
    where = f"{source}, parameters, {name}"
    given = _mapping(entry, where, FORMS)
    _check_names(given, ("values", "low", "high", "step", "log"), where)
    listed = "values" in given
    if (
        (listed and len(given) > 1)
        or not (listed or {"low", "high"} <= given.keys())
        or {"step", "log"} <= given.keys()
    ):
        raise InputError(f"{where}: must be {FORMS}")
    if listed and (not isinstance(given["values"], list) or not given["values"]):
        raise InputError(f"{where}: values must be a list of at least one value")
    if not isinstance(given.get("log", False), bool):
        raise InputError(f"{where}: log must be true or false, got {given['log']!r}")
    return given


def _convert(
    source: str, settings: Settings, base: dict[str, Any], entries: dict[str, dict[str, Any]], seeds: list[Any]
) -> Space:
    """Convert and check every name and value as `TrainConfig` does."""
    if both := sorted(base.keys() & entries.keys()):
        raise InputError(f"{source}: {both[0]} is under base and under parameters; give it once")
    first = {name: entry["values"][0] if "values" in entry else entry["low"] for name, entry in entries.items()}
    pairs = {name: value for name, value in {**base, **first}.items() if name in ("train_data", "documents")}

    def converted(where: str, name: str, value: Any) -> Any:
        return getattr(checked(pairs | {name: value}, where), name)

    plain = {name: converted(f"{source}, base", name, value) for name, value in base.items()}
    parameters = {}
    for name, entry in entries.items():
        where = f"{source}, parameters"
        values = entry.get("values") or [entry["low"], entry["high"]]
        ends = tuple(converted(where, name, value) for value in values)
        parameters[name] = _listed(where, name, ends) if "values" in entry else _range(where, name, ends, entry)
    numbers = tuple(converted(f"{source}, seeds", "seed", seed) for seed in seeds)
    return Space(source, settings, plain, parameters, numbers)


def _listed(where: str, name: str, values: tuple[Any, ...]) -> Parameter:
    if len(set(values)) < len(values):
        raise InputError(f"{where}: {name} lists a value twice; leave one out")
    return Parameter(values)


def _range(where: str, name: str, ends: tuple[Any, ...], entry: Mapping[str, Any]) -> Parameter:
    kind, (low, high), log = converters(TrainConfig)[name].__name__, ends, entry.get("log", False)
    if kind not in ("int", "float") or low is None or high is None:
        raise InputError(f"{where}: {name} has no range, since it is not a number; list its values")
    if not low < high:
        raise InputError(f"{where}: {name} needs low below high, got {low} and {high}")
    if log and low <= 0:
        raise InputError(f"{where}: {name} on a logarithmic scale needs low above 0, got {low}")
    if "step" not in entry:
        return Parameter(tuple(range(low, high + 1)) if kind == "int" and not log else None, low, high, None, log)
    return _stepped(where, name, low, high, entry["step"])


def _stepped(where: str, name: str, low: float, high: float, given: Any) -> Parameter:
    """List a range in decimal arithmetic, so that .1 + .2 is .3."""
    convert = converters(TrainConfig)[name]
    try:
        step = convert(given)
    except ValueError as error:
        raise InputError(f"{where}: {name} has step {given!r}, which is not possible: {error}") from error
    if step is None or not 0 < step <= high - low:
        raise InputError(f"{where}: {name} needs a step above 0 and at most high − low, got {given!r}")
    count, rest = divmod(Decimal(str(high)) - Decimal(str(low)), Decimal(str(step)))
    if rest:
        raise InputError(f"{where}: {name} does not reach {high} from {low} in steps of {step}; change high or step")
    numbers = [Decimal(str(low)) + i * Decimal(str(step)) for i in range(int(count) + 1)]
    return Parameter(tuple(convert(float(number)) for number in numbers), low, high, step)
