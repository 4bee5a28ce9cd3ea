"""Files that are whole, but made up: one line that says what is wrong, no traceback, little memory, and soon."""

import shutil
import time
import warnings

import numpy as np
import pytest

from bpflat.storage import load_npz, save_npz
from tests.fuzz import ALL
from tests.fuzz.crafted import all_crafted
from tests.fuzz.kinds import KINDS, written

SOME = 120
SECONDS = 10  # of computing

pytest.importorskip("h5py")


def test_one_line_each(tmp_path):
    failures = []
    (tmp_path / "whole").mkdir()
    every = all_crafted(tmp_path / "whole")
    assert len(every) > 500
    for i, crafted in enumerate(every if ALL else every[:SOME]):
        folder = tmp_path / str(i)
        folder.mkdir()
        crafted.write(folder / crafted.name)
        begun = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                crafted.read(folder / crafted.name)
        except (ValueError, OSError) as error:
            if len(str(error).splitlines()) != 1:
                failures.append(f"{crafted.label}: {str(error)!r}")
        except Exception as error:
            failures.append(f"{crafted.label}: {error!r}"[:300])
        if time.process_time() - begun > SECONDS:
            failures.append(f"{crafted.label}: {time.process_time() - begun:.0f} s")
        shutil.rmtree(folder)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("name", "field", "change", "message"),
    [
        ("minima.npz", "restart", lambda restart: restart * 0, "restart must be distinct"),
        ("minima.npz", "weights", lambda weights: weights * np.nan, "weights must be finite"),
        ("minima.npz", "epochs", lambda epochs: epochs / 2, "epochs must be integers"),
        ("checkpoint.npz", "restarts", lambda restarts: restarts * 0, "its restarts are not those"),
        ("checkpoint.npz", "u", lambda u: u[:, :1], "u is of another network"),
        ("checkpoint.npz", "u", lambda u: u * np.inf, "u must be finite"),
        ("checkpoint.npz", "ended_status", lambda status: status[:0], "ended_status must be text"),
        ("curve.npz", "phi", lambda phi: phi[:, :2], "must be flags|must be floats"),
        ("cumulants.npz", "mean_errors", lambda errors: errors[:, :, 0], "mean_errors must be floats"),
        ("cumulants.npz", "n_weights", lambda n: n / 2, "n_weights must be integers"),
        ("theory.npz", "alpha", lambda _: [0.5, 0.5], "alpha must be numbers, a single one"),
        ("volume.npz", "phi", lambda phi: phi[1:], "phi must be floats"),
        ("profile.npz", "sigma", lambda sigma: sigma * np.nan, "sigma must be finite"),
        ("run.npz", "curves", lambda curves: curves[:1], "curves must have 2 lines"),
        ("run.npz", "curves", lambda curves: curves[:, 1:-1], "curves must have 11 columns"),
        ("run.npz", "configuration", lambda _: "{}", "configuration must hold a recipe"),
        ("network.npz", "name", lambda _: "../escaped", "name must be a name without folders"),
        ("draw.npz", "ended", lambda ended: ended * 1.0, "ended must be flags"),
    ],
)
def test_fields_are_those_of_the_class(tmp_path, name, field, change, message):
    """A whole file, sealed and all, with one field that is not what the class says: refused by file and field."""
    kind = next(kind for kind in KINDS if kind.name == name)
    path = written(kind, tmp_path)
    with np.load(path) as archive:
        mark = str(archive["kind"])
    arrays = load_npz(path, mark)
    save_npz(path, mark, **arrays | {field: change(arrays[field])})
    with pytest.raises(ValueError, match=message) as caught:
        kind.read(path)
    assert str(path) in str(caught.value)
