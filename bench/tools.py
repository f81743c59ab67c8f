"""What the measurements need and the project does not: compiled programs, peers' environments, brokers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
BUILD = ROOT / "build" / "bench"
ENVIRONMENTS = ROOT / ".venv-bench"

PACKAGES = {
    "ampoule": ["ampoule"],
    "celery": ["celery[redis]"],
    "dramatiq": ["dramatiq[redis]"],
    "huey": ["huey", "redis"],
    "rq": ["rq"],
    "stored_celery": ["celery"],
    "stored_dramatiq": ["dramatiq[rabbitmq]"],
    "stored_huey": ["huey"],
    "stored_procrastinate": ["procrastinate", "psycopg[binary]"],
    "profile": ["py-spy"],
}
"""What each environment has; its first package is the one that it is for."""


class Missing(Exception):
    """Something that the measurements need is not on this machine; says what, and how to get it."""


def say(text: str) -> None:
    """Tell how far the run is."""
    print(text, file=sys.stderr, flush=True)


def program(name: str) -> Path:
    """The compiled program of bench/NAME.c, up to date."""
    source = BENCH / f"{name}.c"
    made = BUILD / name
    sources = [source, *BENCH.glob("*.h")]
    if not made.exists() or made.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None and not install("gcc", "libc6-dev"):
            raise Missing("the load generator needs a C compiler (on Debian: apt install gcc libc6-dev)")
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler or "gcc", "-O2", "-Wall", "-o", made, source], check=True)
    return made


def install(*packages: str) -> bool:
    """Whether Debian's packages could be installed: as root, if there is apt-get."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"installing {', '.join(packages)} …")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = {"env": environ, "stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    subprocess.run(["apt-get", "update"], check=False, **quiet)  # type: ignore[call-overload]
    done = subprocess.run(  # type: ignore[call-overload]
        ["apt-get", "install", "--yes", "--no-install-recommends", *packages], check=False, **quiet
    )
    return bool(done.returncode == 0)


def redis_server() -> str:
    """The path of redis-server, which is installed where that is possible."""
    if shutil.which("redis-server") is None:
        install("redis-server")
    found = shutil.which("redis-server")
    if found is None:
        raise Missing("celery, dramatiq, huey and rq need redis-server (on Debian: apt install redis-server)")
    return found


def rabbitmq_server() -> str:
    """The path of RabbitMQ's own program, which is installed where that is possible."""
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if not program.exists():
        install("rabbitmq-server")
    if not program.exists():
        raise Missing("celery and dramatiq need RabbitMQ (on Debian: apt install rabbitmq-server)")
    return str(program)


def postgres() -> Path:
    """The directory of PostgreSQL's programs, of the newest version; installed where that is possible."""

    def newest() -> Path | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: len(str(path)))
        return found[-1].parent if found else None

    if newest() is None:
        install("postgresql")
    programs = newest()
    if programs is None:
        raise Missing("procrastinate needs PostgreSQL (on Debian: apt install postgresql)")
    return programs


def environment(name: str) -> Path:
    """The bin directory of a virtual environment of its own for a peer, made if it is missing."""
    directory = ENVIRONMENTS / name
    done = directory / ".done"
    if not done.exists():
        say(f"installing {' '.join(PACKAGES[name])} into {directory.relative_to(ROOT)} …")
        pip = [
            str(directory / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        for command in ([sys.executable, "-m", "venv", str(directory)], [*pip, *PACKAGES[name]]):
            if subprocess.run(command, check=False).returncode:
                raise Missing(f"{' '.join(PACKAGES[name])} could not be installed")
        done.touch()
    return directory / "bin"


def version(name: str) -> str:
    """The version of the package that an environment is for."""
    package = PACKAGES[name][0].partition("[")[0]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    command = [str(environment(name) / "python"), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def workerman() -> dict[str, str]:
    """The environment variables for the programs on Workerman. Raises `Missing`."""
    if shutil.which("php") is None:
        raise Missing("Workerman needs php (on Debian: apt install php-cli)")
    if "WORKERMAN_DIR" not in os.environ:
        raise Missing("WORKERMAN_DIR does not name a checkout of walkor/workerman")
    directory = Path(os.environ["WORKERMAN_DIR"]).resolve()
    coroutine = Path(os.environ.get("WORKERMAN_COROUTINE_DIR", directory.parent / "coroutine")).resolve()
    for path in (directory / "src" / "Worker.php", coroutine / "src" / "Coroutine.php"):
        if not path.is_file():
            raise Missing(f"{path} is not there: WORKERMAN_DIR and WORKERMAN_COROUTINE_DIR name checkouts")
    return {"WORKERMAN_DIR": str(directory), "WORKERMAN_COROUTINE_DIR": str(coroutine)}
