"""How many inputs are tried: HYPOTHESIS_PROFILE=fuzz (make fuzz) tries 10,000 of each kind."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import HealthCheck, settings

SLOWEST = timedelta(seconds=20)
"""For one input; a reader that needs longer hangs, even on a busy machine."""
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("quick", max_examples=200, deadline=SLOWEST, suppress_health_check=QUIET, derandomize=True)
settings.register_profile("fuzz", max_examples=10_000, deadline=SLOWEST, suppress_health_check=QUIET, database=None)
