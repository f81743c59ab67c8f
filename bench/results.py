"""What is measured: series of rounds, and the targets that they are held against; kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from bench.loads import LoadFailed
from bench.tools import say


@dataclass(slots=True)
class Series:
    """The figures of one contestant, a round each. `failures` are the rounds that gave none."""

    name: str
    unit: str
    setting: str = ""
    values: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of the rounds; 0 if there are none."""
        return median(self.values) if self.values else 0.0


@dataclass(slots=True)
class Target:
    """What a figure must be, and what it is: at least, or at most, `required`."""

    text: str
    required: float
    actual: float
    unit: str
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure is good enough."""
        if not self.actual:
            return False
        return self.actual <= self.required if self.at_most else self.actual >= self.required


@dataclass(slots=True)
class Result:
    """One scenario: who took part, and how it went."""

    key: str
    title: str
    text: str
    series: list[Series] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """A whole run. `about` is what was measured where: versions, machine, date."""

    about: dict[str, str]
    results: list[Result] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` has written."""
        data = json.loads(path.read_text())
        return cls(data["about"], [_result(result) for result in data["results"]])


def _result(data: dict[str, Any]) -> Result:
    series = [Series(**one) for one in data.pop("series")]
    targets = [Target(**one) for one in data.pop("targets")]
    return Result(**data, series=series, targets=targets)


def alternate(rounds: int, contestants: Mapping[str, tuple[Series, Callable[[], float]]]) -> None:
    """Let each contestant run in turn, round after round: A B A B. A round that fails is noted."""
    for _ in range(rounds):
        for key, (series, measure) in contestants.items():
            try:
                series.values.append(measure())
            except (LoadFailed, OSError) as error:
                say(f"  {key}: {error}")
                series.failures.append(str(error))


def best(*series: Series) -> Series:
    """The one with the highest median."""
    return max(series, key=lambda one: one.median)
