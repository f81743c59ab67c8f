"""Unit tests: no processes, no sockets, no real time. `trial tests.unit` runs them.

If a property fails, `python -m unittest tests.unit.test_…` shows the example that Hypothesis found;
trial does not print the notes of an exception.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

_ROOT = Path(__file__).parents[2]

settings.register_profile(
    "taskd",
    deadline=None,
    max_examples=150,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow],
    database=DirectoryBasedExampleDatabase(_ROOT / ".hypothesis" / "examples"),
)
settings.register_profile("taskd-ci", settings.get_profile("taskd"), derandomize=True, database=None)
settings.load_profile("taskd-ci" if os.environ.get("CI") else "taskd")
