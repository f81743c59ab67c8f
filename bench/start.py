"""How long a server with many workers takes to answer, and what its processes weigh; prints JSON.

python bench/start.py --workers 100
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PORT = 12399


def processes(name: str) -> list[int]:
    """Every process whose title begins so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(f"{name}: ".encode()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def pss_kib(pid: int) -> int:
    """The proportional set size: what is shared counts once over all that share it."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])


def ask(function: str) -> Any:
    """One request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", PORT), 30) as sock:
        sock.sendall(
            b'{"function":"%s","args":%s}\n' % (function.encode(), b"[1]" if function == "echo" else b"[]")
        )
        return json.loads(sock.makefile("rb").readline())


def main() -> None:
    """Start, measure, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=100)
    workers = parser.parse_args().workers
    name = f"bench-{os.getpid()}"
    command = [
        str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "taskd", "--name", name,
        "--app", str(HERE / "tasks.py"), "--workers", str(workers),
        "--listen", f"tcp:{PORT}:interface=127.0.0.1", "--websocket", "none",
    ]  # fmt: skip
    began = time.monotonic()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                ask("echo")
                break
            except OSError:
                time.sleep(0.005)
        first_answer = time.monotonic() - began
        while sum(worker["state"] == "idle" for worker in ask("taskd.status")["workers"]) < workers:
            time.sleep(0.005)
        all_idle = time.monotonic() - began
        pids = processes(name)
        weights = {pid: pss_kib(pid) for pid in pids}
        daemon = weights[server.pid]
        print(
            json.dumps(
                {
                    "workers": workers,
                    "first_answer_seconds": round(first_answer, 2),
                    "all_workers_idle_seconds": round(all_idle, 2),
                    "processes": len(pids),
                    "pss_MiB": round(sum(weights.values()) / 1024, 1),
                    "of_which_daemon_MiB": round(daemon / 1024, 1),
                },
                indent=2,
            )
        )
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


if __name__ == "__main__":
    main()
