"""``python -m tools.github``: checks the files in ``.github`` against their schemas, and the tested Pythons.

Nothing is fetched: the schemas come with check-jsonschema.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.pythons import promised

ROOT = Path(__file__).resolve().parent.parent

SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "custom.github-workflows-require-timeout": ".github/workflows/*.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.dependabot": ".github/dependabot.yml",
}
"""The files that each schema is for."""


def tested_pythons() -> list[str]:
    """Return the versions of Python for which the workflow runs the tests."""
    matrix = re.search(
        r"^ +python: \[(.+)\]$", (ROOT / ".github/workflows/check.yml").read_text(), re.MULTILINE
    )
    return re.findall(r'"(3\.\d+)"', matrix[1]) if matrix is not None else []


def main() -> int:
    """Check everything; return 1 if something is wrong."""
    failed = False
    for schema, pattern in SCHEMAS.items():
        files = [str(file) for file in sorted(ROOT.glob(pattern))]
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "--quiet", *files]
        failed |= not files or subprocess.run(command, check=False).returncode != 0
    if tested_pythons() != promised():
        print(f"the workflow tests Python {tested_pythons()}, the classifiers promise {promised()}")
        failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
