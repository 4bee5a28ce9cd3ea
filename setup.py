"""Puts the files of data/ into the wheel as bpflat/data; everything else stands in setup.cfg.

A mapping of folders there (package_dir) would do it too, but then an editable installation would be no plain path, and
a script in the folder above a clone called bpflat would import the clone's own folder as an empty package.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """The usual step, with one more folder of data files."""

    def finalize_options(self):
        """Append the folder to those that setup.cfg names."""
        super().finalize_options()
        names = ["reduced_fashion_mnist.npz", "LICENSE", "README.md"]
        self.data_files.append(("bpflat", "data", str(Path(self.build_lib, "bpflat", "data")), names))


setup(cmdclass={"build_py": BuildWithData})
