"""How long and how often things are measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """`seconds` are those that count in a round, after `warm_up`."""

    rounds: int = 5
    seconds: float = 2.0
    warm_up: float = 0.5
    survey_seconds: float = 1.0
    counts: tuple[int, ...] = (2, 4, 8, 20)
    gateways: tuple[int, ...] = (1, 2, 4)
    latency_rounds: int = 20_000
    peer_rounds: int = 3
    many_processes: bool = True
    waiting: int = 10_000
    idle: int = 5_000
    in_flight: int = 800
    """Tasks in flight in a client of a task queue: as many as 50 connections with 16 on each."""
    stored_share: float = 1.0
    """The share of the stored tasks of `bench.stored.PEERS` that is submitted in a round."""
    stored_seconds: float = 2.0
    stored_paced: int = 150
    """Stored tasks that are submitted one every 20 ms."""
    many_stored: int = 1_000_000
    watchers: int = 1_000
    beside: str = ""
    """The `twistd` of another environment, whose taskd takes part as well: an older one, say."""


FULL = Settings()
QUICK = Settings(
    rounds=2,
    seconds=0.6,
    warm_up=0.3,
    survey_seconds=0.4,
    counts=(2, 8),
    gateways=(1,),
    latency_rounds=5_000,
    peer_rounds=2,
    many_processes=False,
    waiting=2_000,
    idle=1_000,
    in_flight=200,
    stored_share=0.25,
    stored_seconds=1.0,
    stored_paced=50,
    many_stored=100_000,
    watchers=200,
)
