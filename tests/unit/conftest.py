"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long one example takes says something about the machine, not about MXFlex; tests of cost
# measure processor time themselves.
settings.register_profile("mxflex", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mxflex")
