"""What bench/pingpong.c measures, in Python: what a dispatcher and a worker in Python cannot do without.

python bench/pingpong.py [ROUNDS]
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from statistics import median

SIZE = 128


def pass_on(source: socket.socket, target: socket.socket | None) -> None:
    """Hand each line on and its answer back; without a target, answer."""
    while line := source.recv(SIZE):
        if target is not None:
            target.send(line)
            line = target.recv(SIZE)
        source.send(line)


def child(source: socket.socket, target: socket.socket | None, *others: socket.socket) -> None:
    """Start a process that passes on; the ends that are not its own are closed in it."""
    if os.fork() == 0:
        for other in others:
            other.close()
        pass_on(source, target)
        os._exit(0)


def time_rounds(sock: socket.socket, rounds: int) -> dict[str, float]:
    """The median of so many rounds, in microseconds."""
    latencies = []
    for number in range(rounds):
        line = b'{"function":"echo","args":[%d]}\n' % number
        began = time.perf_counter()
        sock.send(line)
        back = sock.recv(SIZE)
        latencies.append(time.perf_counter() - began)
        if back != line:
            sys.exit("a line did not come back")
    return {"p50_us": round(median(latencies) * 1e6, 1)}


def main() -> None:
    """Two round trips, one inside the other, and one alone."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    near, middle = socket.socketpair()
    onward, far = socket.socketpair()
    mine, alone = socket.socketpair()
    child(far, None, near, middle, onward, mine, alone)
    child(middle, onward, near, far, mine, alone)
    child(alone, None, near, middle, onward, far, mine)
    print(json.dumps({"two": time_rounds(near, rounds), "one": time_rounds(mine, rounds)}))


if __name__ == "__main__":
    main()
