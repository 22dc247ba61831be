"""Which configuration comes next: a function of the sweep and the trials that are finished, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from ragcun.sweeps.space import Parameter, Space

SAMPLERS = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
DRAWS = 100
"""How often a configuration that was tried already is drawn again before the space counts as exhausted."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's description of each parameter."""
    return {name: _distribution(parameter) for name, parameter in space.parameters.items()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.low is None or parameter.high is None:
        return CategoricalDistribution(parameter.values or ())
    if isinstance(parameter.low, int):
        return IntDistribution(parameter.low, int(parameter.high), parameter.log, int(parameter.step or 1))
    return FloatDistribution(parameter.low, parameter.high, parameter.log, parameter.step)


def propose(space: Space, finished: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    """Return the configuration to try after the `finished` trials, None where none is left.

    The sampler is seeded anew for each proposal, by the sweep's seed and the number of finished trials: a sweep that
    was interrupted goes on with the proposals that it would have made.
    """
    tried = [trial.params for trial in finished]
    if space.settings.sampler == "grid":
        return next((chosen for chosen in space.grid() if chosen not in tried), None)
    for draw in range(DRAWS):
        entropy = [space.settings.sampler_seed, len(finished), draw]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        study = optuna.create_study(direction="maximize", sampler=SAMPLERS[space.settings.sampler](seed=seed))
        study.add_trials(finished)
        chosen = study.ask(distributions(space)).params
        if chosen not in tried:
            return chosen
    return None
