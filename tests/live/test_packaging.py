"""The source distribution and the wheel: what is in them; installing, developing and uninstalling."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskd.cli.completion import INSTALLED
from tests.live import support
from tests.live.support import TIMEOUT

ROOT = Path(__file__).parents[2]

INSTALL_TIMEOUT = 300.0
"""Seconds for pip, which may have to download."""

HELLO = '''
from taskd import task


@task
def hello(name: str = "World") -> str:
    """Say hello."""
    return f"Hello, {name}!"
'''

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER_PYTHONS = [version for version in ("3.11", "3.12", "3.13") if version != HERE]


def run(*command, cwd, timeout=TIMEOUT, check=True):
    """Run a command without this source tree on its path, and return its output."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check:
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


class Venv:
    """A new virtual environment, filled by the pip of this one; of another Python, by that one's own pip."""

    def __init__(self, directory, python=sys.executable):
        self.directory = directory
        # An older pip cannot be run by a newer Python.
        without_pip = [] if python != sys.executable else ["--without-pip"]
        run(python, "-m", "venv", *without_pip, directory / "venv", cwd=directory, timeout=INSTALL_TIMEOUT)
        self.bin = directory / "venv" / "bin"
        own = self.bin / "python"
        self._pip = [own, "-m", "pip"] if not without_pip else [sys.executable, "-m", "pip", "--python", own]

    def pip(self, *arguments):
        pip = [*self._pip, "--disable-pip-version-check", "-q"]
        return run(*pip, *arguments, cwd=self.directory, timeout=INSTALL_TIMEOUT)

    def install(self, *what):
        self.pip("install", "--no-compile", *what)
        return self

    def run(self, command, *arguments, check=True):
        return run(self.bin / command, *arguments, cwd=self.directory, check=check)

    @property
    def commands_of_twistd(self):
        """The names that `twistd --help` lists."""
        lines = self.run("twistd", "--help").partition("Commands:")[2].splitlines()
        return {line.split()[0] for line in lines if line.strip()}


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository, by their paths in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no clone of the repository")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def source(tracked, tmp_path_factory):
    """A copy of the repository, so that a build does not disturb other tests."""
    copy = tmp_path_factory.mktemp("source") / "taskd"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def build(source, directory, *options):
    # In this environment: the development install below has pip make one of its own.
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", directory, source]
    run(*command, cwd=directory, timeout=INSTALL_TIMEOUT)
    return directory


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """A directory with a source distribution, and the wheel made from that."""
    return build(source, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def wheel(built):
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(built):
    (sdist,) = built.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def venv(wheel, tmp_path_factory):
    """An environment with the wheel and its dependencies, and nothing else."""
    return Venv(tmp_path_factory.mktemp("fresh")).install(wheel)


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(wheel):
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    return zipfile.ZipFile(wheel).read(name).decode()


# --- the source distribution -------------------------------------------------

GENERATED = ("PKG-INFO", "setup.cfg", "twisted_taskd.egg-info/")
"""How the names of files begin that setuptools adds."""


def test_the_source_distribution_has_every_file_of_the_repository(sdist, tracked):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    assert {name for name in names if not name.startswith(GENERATED)} == tracked


def test_the_source_distribution_builds_the_same_wheel_as_the_repository(wheel, source, tmp_path):
    (other,) = build(source, tmp_path, "--wheel").glob("*.whl")
    assert contents(other) == contents(wheel)


def test_an_index_of_packages_would_take_both(sdist, wheel, tmp_path):
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=tmp_path)


# --- the wheel ---------------------------------------------------------------


def test_the_wheel_contains_the_plugin_and_no_package_named_twisted(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "twisted/plugins/taskd_plugin.py" in names
    assert "taskd/py.typed" in names
    assert "twisted/__init__.py" not in names
    assert "twisted/plugins/__init__.py" not in names
    assert {name for name in names if name.startswith("twisted/")} == {"twisted/plugins/taskd_plugin.py"}


def test_the_wheel_contains_every_module_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "taskd").rglob("*.py")}
    assert modules <= names
    release = wheel.name.split("-py3")[0]
    assert {name.split("/")[0] for name in names} == {
        "taskd",
        "twisted",
        f"{release}.data",
        f"{release}.dist-info",
    }


def test_the_wheel_contains_the_javascript_client(wheel):
    packed = zipfile.ZipFile(wheel).read("taskd/web/taskd.js")
    assert packed == (ROOT / "clients" / "js" / "taskd.js").read_bytes()


def test_the_wheel_contains_the_pages(wheel):
    packed = zipfile.ZipFile(wheel)
    for path in (ROOT / "taskd" / "web" / "pages").rglob("*.*"):
        assert packed.read(str(path.relative_to(ROOT))) == path.read_bytes()


def test_the_wheel_installs_the_manual_page_and_the_completions_of_shells(venv):
    prefix = venv.directory / "venv"
    for path in ("share/man/man1/taskd.1", *INSTALLED.values()):
        assert (prefix / path).read_bytes() == (ROOT / path).read_bytes()


def test_the_wheel_has_its_metadata(wheel):
    from taskd import __version__

    metadata = metadata_of(wheel)
    assert "\nName: twisted-taskd\n" in metadata
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    for package in ("twisted", "autobahn", "service-identity"):
        assert f"\nRequires-Dist: {package}" in metadata


def test_the_page_of_the_wheel_links_to_the_files_of_its_release(wheel):
    from taskd import __version__

    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    links = re.findall(r"\]\((.+?)\)", metadata_of(wheel))
    assert f"{urls['Source']}/blob/v{__version__}/docs/tutorial.md" in links
    assert not [link for link in links if not link.startswith("https://")]


# --- installed ---------------------------------------------------------------


def test_the_wheel_installs_the_twistd_plugin_and_the_command(venv):
    from taskd import __version__

    assert {"taskd", "web"} <= venv.commands_of_twistd
    assert __version__ in venv.run("taskd", "--version")
    assert str(venv.directory) in venv.run("python", "-c", "import taskd; print(taskd.__file__)")


def test_an_app_runs_from_the_installed_wheel(venv, monkeypatch, start, tmp_path):
    (tmp_path / "hello.py").write_text(HELLO)
    monkeypatch.setattr(support, "TWISTD", [str(venv.bin / "twistd")])
    daemon = start("--app", "hello", "--workers", "2", env={"PYTHONPATH": ""}).wait_until_ready()
    assert daemon.connect().ask({"function": "hello", "args": {"name": "Ann"}}) == "Hello, Ann!"
    assert venv.run("taskd", "call", "--server", daemon.tcp, "hello", "name=Ann") == '"Hello, Ann!"\n'
    assert venv.run("taskd", "call", "--via", daemon.ws, "hello") == '"Hello, World!"\n'


def test_without_an_app_the_server_has_send_mail(venv, monkeypatch, tmp_path):
    monkeypatch.setattr(support, "TWISTD", [str(venv.bin / "twistd")])
    daemon = support.Daemon("--workers", "1", directory=tmp_path, env={"PYTHONPATH": ""})
    try:
        mail = {"from": "a@example.org", "to": "b@example.org", "contents": "hi"}
        reply = daemon.connect().ask({"function": "send_mail", "args": mail})
        assert "error" not in reply, reply
        assert len(list((tmp_path / "outbox" / "new").iterdir())) == 1
    finally:
        daemon.stop()
        daemon.wait_until_gone()


def test_uninstalling_leaves_twisted_whole_and_a_development_install_works(venv, source):
    """These steps share one environment, one after the other."""
    assert "taskd" in venv.commands_of_twistd
    venv.pip("uninstall", "-y", "twisted-taskd")
    commands = venv.commands_of_twistd
    assert "taskd" not in commands
    assert "web" in commands
    assert "No module named 'taskd'" in venv.run("python", "-c", "import taskd", check=False)
    venv.run("python", "-c", "import twisted.plugins, twisted.internet.reactor, twisted.web.server")
    plugins = venv.run("python", "-c", "import twisted.plugins; print(*twisted.plugins.__path__, sep='\\n')")
    assert not [path for path in plugins.split() if list(Path(path).glob("taskd*"))]

    venv.install("-e", source)
    assert {"taskd", "web"} <= venv.commands_of_twistd
    assert str(source) in venv.run("python", "-c", "import taskd; print(taskd.__file__)")
    assert "--task-server" in venv.run("twistd", "taskd", "--help")

    venv.pip("uninstall", "-y", "twisted-taskd")
    commands = venv.commands_of_twistd
    assert "taskd" not in commands
    assert "web" in commands


# --- other Pythons -----------------------------------------------------------


def find_python(version):
    """Find an interpreter of that version, on the path or pyenv's; None if there is none."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
    for candidate in candidates:
        if candidate is None:
            continue
        ended = subprocess.run([candidate, "-c", "import venv, ssl"], capture_output=True, check=False)
        if ended.returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="module", autouse=True)
def other_venvs(wheel, tmp_path_factory):
    """A future of an environment for each other Python; they are installed while other tests run."""

    def fill(version, python):
        return Venv(tmp_path_factory.mktemp(f"python{version}"), python).install(wheel)

    with ThreadPoolExecutor() as pool:
        pythons = {version: find_python(version) for version in OTHER_PYTHONS}
        yield {version: pool.submit(fill, version, python) for version, python in pythons.items() if python}


@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_taskd_runs_on_other_pythons(version, other_venvs):
    if version not in other_venvs:
        pytest.skip(f"there is no Python {version} on the path, nor in pyenv")
    venv = other_venvs[version].result(INSTALL_TIMEOUT)
    assert version in venv.run("python", "--version")
    assert {"taskd", "web"} <= venv.commands_of_twistd
    modules = ("daemon.service", "cli.main", "apps.mail", "client", "web", "worker.fork_server")
    imports = "; ".join(f"import taskd.{module}" for module in modules)
    venv.run("python", "-W", "error::SyntaxWarning", "-c", imports)
