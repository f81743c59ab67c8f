"""taskd through `AsyncClient`, in one asyncio program; prints what window.py prints.

python asyncio_client.py --server 127.0.0.1:12345 --in-flight 1000 --seconds 3 [--uvloop]
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from itertools import count

from window import Meter, arguments

from taskd.client import AsyncClient


async def run(options: Namespace) -> None:
    """Call a server that runs already: so many callers, each with one call at a time."""
    meter = Meter(options.warm_up, options.seconds)
    numbers = count()
    async with AsyncClient(options.server) as client:

        async def caller() -> None:
            while meter.goes_on():
                number = next(numbers)
                meter.check(number, await client.call("echo", number))

        meter.start()
        async with asyncio.TaskGroup() as callers:
            for _ in range(options.in_flight):
                callers.create_task(caller())
    meter.print()


def main() -> None:
    """Call until the time is over."""
    parser = arguments()
    parser.add_argument("--server", default="127.0.0.1:12345")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if options.uvloop:
        import uvloop

        uvloop.run(run(options))
    else:
        asyncio.run(run(options))


if __name__ == "__main__":
    main()
