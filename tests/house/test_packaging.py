"""What is installed is bpflat and its data file, nothing else; and the data file is found however it is installed."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.stored import ROOT

# Run without the site module (-S), so that a bpflat that is installed in this environment is not found; its
# dependencies are, through the folders given last.
PROGRAM = """
import site, sys
installed, expected, script_folder, *others = sys.argv[1:]
sys.path.insert(0, script_folder)
site.addsitedir(installed)
sys.path.extend(others)
import bpflat
from bpflat import datasets
data = bpflat.load_reduced_fashion_mnist(20)
assert data.train_patterns.shape == (20, 784) and data.test_patterns.shape == (677, 784)
assert bpflat.__file__.startswith(expected), bpflat.__file__
print(next(path for path in datasets._candidates() if path.is_file()))
"""


def run_installed(installed, expected, cwd):
    """Import bpflat from site `installed`, as a script in `cwd` does, and return the path of the data file."""
    others = [p for p in sys.path if p and Path(p).resolve() != ROOT]
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(installed), str(expected), str(cwd), *others]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def is_installed(name):
    """Whether there is such a distribution; looking for its module would keep setuptools from replacing distutils."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout, so that building leaves nothing behind in the real one."""
    copy = (tmp_path_factory.mktemp("packaging") / "bpflat").resolve()
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "results")
    for name in ("bpflat", "data", "training", "figures", "benchmarks", "tests"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.cfg", "setup.py", "MANIFEST.in", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout):
    if not is_installed("pip"):
        pytest.skip("needs pip")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", "wheels", "."], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (path,) = (checkout / "wheels").glob("*.whl")
    return path


def test_wheel_holds_the_package_and_its_data_and_nothing_else(wheel, checkout):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if re.match(r"bpflat-[^/]*\.dist-info/", name)}
    modules = {path.relative_to(checkout).as_posix() for path in (checkout / "bpflat").rglob("*.py")}
    data = {f"bpflat/data/{name}" for name in ("reduced_fashion_mnist.npz", "LICENSE", "README.md")}
    assert names - info == modules | data | {"bpflat/py.typed"}
    assert any(name.endswith("/METADATA") for name in info)
    assert sum("LICENSE" in name for name in info) == 2  # ours and that of the data


def test_plain_install_finds_its_data(wheel, tmp_path):
    site = (tmp_path / "site").resolve()
    zipfile.ZipFile(wheel).extractall(site)
    assert run_installed(site, site, tmp_path) == site / "bpflat" / "data" / "reduced_fashion_mnist.npz"


def test_editable_install_finds_its_data(checkout, tmp_path):
    program = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = (tmp_path / "site").resolve()
    zipfile.ZipFile(wheel).extractall(site)
    assert not list(site.glob("*.npz"))
    assert run_installed(site, checkout, tmp_path) == checkout / "data" / "reduced_fashion_mnist.npz"
    above = checkout.parent  # where bpflat/ is a folder of another package, which Python must not take for ours
    assert run_installed(site, checkout, above) == checkout / "data" / "reduced_fashion_mnist.npz"


def test_a_source_distribution_makes_the_same_wheel(wheel, checkout, tmp_path):
    program = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
    for kind, folder in (("sdist", checkout), ("wheel", tmp_path / f"bpflat-{metadata.version('bpflat')}")):
        command = [sys.executable, "-c", program.format(kind), tmp_path]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if kind == "sdist":
            shutil.unpack_archive(tmp_path / done.stdout.splitlines()[-1], tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_versions_agree():
    import bpflat

    versions = {
        name: re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE).group(1)
        for name, pattern in (
            ("setup.cfg", r"^version = (\S+)"),
            ("CITATION.cff", r"^version: (\S+)"),
            ("CHANGELOG.md", r"^## \[(\d\S*)\]"),
        )
    }
    assert set(versions.values()) == {bpflat.__version__}, versions
