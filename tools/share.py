"""``make share``: writes what an installation puts below ``share/``, the manual page and the completions.

The files are in the repository, so that a wheel can be built with nothing but setuptools. `make check`
compares them with what the commands' help says now.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from taskd import __version__
from taskd.cli.completion import INSTALLED, script
from taskd.cli.main import main as program
from tools.manual import escaped, manual

ROOT = Path(__file__).resolve().parent.parent

PURPOSE = "run a task server, call its functions, and see what it does"

AFTER = r"""
.SH ENVIRONMENT
.TP
.B TASKD_SERVER
The task server, if \fB\-\-server\fR names none.
.TP
.B TASKD_OPTION
An option of \fBtaskd serve\fR by its name: TASKD_MAX_QUEUE is \fB\-\-max\-queue\fR.
.SH FILES
.TP
.B taskd.toml
The options of \fBtaskd serve\fR, in the directory where it is started.
\fBtaskd config\fR prints one with the defaults.
.SH EXIT STATUS
.TP
.B 0
It is done.
.TP
.B 1
The server refused it, the task failed, or some of the rows did.
.TP
.B 2
An argument or a file cannot be used.
.TP
.B 69
The server cannot be reached.
.TP
.B 75
What \fBtaskd wait\fR waits for has not ended in time.
.TP
.B 130
It was ended by Ctrl\-C.
.SH EXAMPLES
.nf
taskd serve \-\-app tasks
taskd call hello name=Ann
taskd map \-\-submit send_mail users.csv
taskd status
.fi
.SH SEE ALSO
.BR twistd (1)
"""


def files() -> dict[str, str]:
    """Return the text of each file by its path in the repository, which is that below the prefix, too."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    after = f"{AFTER}.br\n{escaped(urls['Documentation'])}"
    page = manual(program, "taskd", version=__version__, purpose=PURPOSE, after=after)
    return {"share/man/man1/taskd.1": page} | {path: script(shell) for shell, path in INSTALLED.items()}


def main() -> int:
    """Write the files; with ``--check`` return 1 instead if they are not what they would be."""
    stale = [path for path, text in files().items() if _read(path) != text]
    if sys.argv[1:] == ["--check"]:
        if stale:
            print(f"not what the commands' help says now: {', '.join(stale)}; run: make share")
        return 1 if stale else 0
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    return 0


def _read(path: str) -> str:
    return (ROOT / path).read_text() if (ROOT / path).exists() else ""


if __name__ == "__main__":
    sys.exit(main())
