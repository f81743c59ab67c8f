"""The task on ampoule, a pool of processes inside a Twisted program; prints what window.py prints.

python ampoule_client.py --processes 4 --in-flight 800 --seconds 3
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from ampoule.main import ProcessStarter
from ampoule.pool import ProcessPool
from ampoule_tasks import Child, Echo
from deferreds import keep_calling
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from window import Meter, arguments


async def run(options: Namespace) -> None:
    """Start the pool, call it, stop it."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    starter = ProcessStarter(packages=("twisted", "ampoule"), env=environ)
    # Processes are kept, as those of taskd are; without that ampoule starts a new one after 500 calls.
    pool = ProcessPool(Child, min=options.processes, max=options.processes, recycleAfter=0, starter=starter)
    await pool.start()

    def call(number: int) -> Deferred[int]:
        return pool.doWork(Echo, value=number).addCallback(lambda reply: reply["value"])

    await gatherResults([call(0) for _ in range(options.processes)])
    meter = Meter(options.warm_up, options.seconds)
    await keep_calling(call, meter, options.in_flight)
    meter.print()
    await pool.stop()


def main(_: Any) -> Deferred[None]:
    """Attempt until the time is over."""
    parser = arguments()
    parser.add_argument("--processes", type=int, default=4)
    return Deferred.fromCoroutine(run(parser.parse_args()))


if __name__ == "__main__":
    react(main)
