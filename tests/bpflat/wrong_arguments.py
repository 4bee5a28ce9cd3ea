"""Valid arguments of each kind, and ways to make one wrong: what `test_fuzz` puts into the public functions."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from torch import nn

Way = Callable[[object, np.random.Generator], object]


@dataclass(frozen=True)
class Argument:
    """A valid value, ways to make it wrong by name, and what the message must hold instead of the argument's name."""

    value: object
    ways: dict[str, Way]
    says: str = ""
    others: dict[str, object] = field(default_factory=dict)  # further wrong values, of this argument alone

    @property
    def all_ways(self) -> list[str]:
        """Names of what can be made wrong."""
        return [*self.ways, *self.others]

    def wrong(self, way: str, rng: np.random.Generator) -> object:
        """The value made wrong."""
        return self.others[way] if way in self.others else self.ways[way](self.value, rng)

    def but(self, *accepted: str, says: str = "", **others: object) -> Argument:
        """The same with further wrong values, and without those that are right here."""
        ways, others = (
            {name: way for name, way in found.items() if name not in accepted}
            for found in (self.ways, self.others | others)
        )
        return Argument(self.value, ways, says or self.says, others)


def _always(value: object) -> Way:
    return lambda valid, rng: value


def _entry(bad: float) -> Way:
    """One entry, at random, replaced."""

    def way(valid, rng):
        wrong = np.array(valid, dtype=float)
        wrong[tuple(rng.integers(wrong.shape))] = bad
        return wrong

    return way


def _masked(valid, rng):
    mask = np.zeros(np.shape(valid), bool)
    mask[tuple(rng.integers(mask.shape))] = True
    return np.ma.array(valid, mask=mask)


def _ragged(valid, rng):
    rows = np.array(valid).tolist()
    return [*rows[:-1], [rows[-1], 1.0]]


class Unwilling:
    """An object that refuses to be an array, a number or a line of text."""

    def __array__(self, *args, **options):
        raise RuntimeError("no")

    __float__ = __index__ = __repr__ = __array__


_ANYTHING = {
    "none": _always(None),
    "word": _always("sharp"),
    "bytes": _always(b"12"),
    "mapping": _always({"a": 1}),
    "set": _always({1.0}),
    "function": _always(print),
    "class": _always(nn.Linear),
    "generator": lambda valid, rng: (x for x in ()),
    "unwilling": _always(Unwilling()),
    "ellipsis": _always(...),
}
_ARRAY = _ANYTHING | {
    "complex": lambda valid, rng: np.asarray(valid) * 1j,
    "masked": _masked,
    "masked rows": lambda valid, rng: list(_masked(valid, rng)),
    "dates": lambda valid, rng: np.array(valid).astype("M8[s]"),
    "spans": lambda valid, rng: np.array(valid).astype("m8[s]"),
    "records": lambda valid, rng: np.array(valid, dtype=float).astype([("x", float)]),
    "digits": lambda valid, rng: np.array(valid).astype(str),
    "objects": lambda valid, rng: np.array(valid).astype(object),
    "bool": lambda valid, rng: np.array(valid) > 0,
    "ragged": _ragged,
    "nan": _entry(np.nan),
    "infinite": _entry(np.inf),
    "gradients": lambda valid, rng: torch.tensor(np.array(valid, dtype=float), requires_grad=True),
    "elsewhere": lambda valid, rng: torch.tensor(np.array(valid, dtype=float), device="meta"),
    "sparse tensor": lambda valid, rng: torch.tensor(np.array(valid, dtype=float)).to_sparse(),
    "sparse": lambda valid, rng: sparse.csr_matrix(np.atleast_2d(np.array(valid, dtype=float).T)[:2]),
    "dimensions": lambda valid, rng: np.array(valid)[None, None],
    "empty": lambda valid, rng: np.array(valid)[:0],
}
_PATTERNS = _ARRAY | {
    "huge": lambda valid, rng: valid * 1e300,
    "tiny": lambda valid, rng: valid * 1e-300,
    "narrow": lambda valid, rng: valid[:, 1:],
}
_LABELS = _ARRAY | {
    "zero": _entry(0.0),
    "classes": lambda valid, rng: (valid > 0) * 1.0,
    "one more": lambda valid, rng: np.append(valid, 1.0),
}
_GRID = _ARRAY | {
    "negative": lambda valid, rng: -np.array(valid)[::-1],
    "falling": lambda valid, rng: valid[::-1],
    "repeated": lambda valid, rng: np.repeat(valid, 2),
    "1e308": lambda valid, rng: [*valid, 1e308],
}
_NUMBER = _ANYTHING | {
    "nan": _always(np.nan),
    "infinite": _always(-np.inf),
    "digits": _always("2"),
    "complex": _always(1 + 1j),
    "complex array": _always(np.array(1j)),
    "list": _always([0.5]),
    "array": _always(np.array([0.5])),
    "bool": _always(True),
    "date": _always(np.datetime64(1, "s")),
    "span": _always(np.timedelta64(1)),
    "masked": _always(np.ma.masked),
    "decimal": _always(decimal.Decimal("0.5")),
    "record": _always(np.array(1.0).astype([("x", float)])),
    "text array": _always(np.array("2")),
    "tensor": _always(torch.ones(2)),
    "elsewhere": _always(torch.ones((), device="meta")),
    "negative": _always(-1.0),
    "1e308": _always(1e308),
    "huge integer": _always(10**400),
}
_COUNT = _NUMBER | {
    "fraction": _always(2.5),
    "float": _always(2.0),
    "zero": _always(0),
    "negative integer": _always(-3),
    "2**70": _always(2**70),
    "float array": _always(np.array(3.0)),
}
_CHOICE = _ANYTHING | {
    "no": _always(""),
    "number": _always(1),
    "nan": _always(np.nan),
    "bool": _always(True),
    "array": lambda valid, rng: np.array([valid, valid]),
    "list": lambda valid, rng: [valid],
    "capitals": lambda valid, rng: valid.upper(),
    "space": lambda valid, rng: f" {valid}",
    "beginning": lambda valid, rng: valid[:-1],
    "bytes of it": lambda valid, rng: valid.encode(),
}
_FLAG = _ANYTHING | {
    "no": _always("no"),
    "0": _always(0),
    "1": _always(1),
    "nan": _always(np.nan),
    "list": _always([]),
    "array": _always(np.array([True, False])),
    "tensor": _always(torch.zeros(2)),
}
_DEVICE = _ANYTHING | {
    "number": _always(0),
    "float": _always(1.5),
    "bool": _always(True),
    "cuda": _always("cuda:99"),
    "meta": _always("meta"),
    "list": _always(["cpu"]),
    "colon": _always("cpu:x"),
    "blank": _always(""),
    "nul": _always("cpu\0"),
}
_PATH = {name: way for name, way in _ANYTHING.items() if name != "word"} | {
    "number": _always(10**6),
    "float": _always(1.5),
    "list": _always(["a"]),
    "array": _always(np.ones(2)),
    "blank": _always(""),
    "nul": _always("a\0b"),
    "nan": _always(np.nan),
}
_OBJECT = _ANYTHING | {
    "number": _always(3),
    "nan": _always(np.nan),
    "bool": _always(True),
    "list": _always([1, 2]),
    "array": _always(np.ones(3)),
    "tensor": _always(torch.ones(3)),
    "date": _always(np.datetime64(1, "s")),
}


def array(value: object) -> Argument:
    """Real numbers."""
    return Argument(value, _ARRAY)


def weights(value: np.ndarray) -> Argument:
    """References (K, N), of any scale."""
    return array(value).but(even=value[1:], row=value[0], four=np.array([value] * 2)[None])


def patterns(value: np.ndarray) -> Argument:
    """Patterns (P, N)."""
    return Argument(value, _PATTERNS)


def labels(value: np.ndarray) -> Argument:
    """Labels (P,)."""
    return Argument(value, _LABELS)


def grid(value: list[float]) -> Argument:
    """Numbers that rise."""
    return Argument(value, _GRID)


def number(value: float) -> Argument:
    """A number of at least 0."""
    return Argument(value, _NUMBER)


def count(value: int) -> Argument:
    """A whole number from 1 on."""
    return Argument(value, _COUNT)


def seed(value: int) -> Argument:
    """A whole number from 0 on, of any size, or none."""
    return Argument(value, _COUNT).but("none", "zero", "2**70", "huge integer")


def jobs(value: int) -> Argument:
    """Processes."""
    return Argument(value, _COUNT).but("negative integer", many=-(2**70))


def choice(value: str) -> Argument:
    """One of some words."""
    return Argument(value, _CHOICE)


def flag(value: bool) -> Argument:
    """True or False."""
    return Argument(value, _FLAG)


def device(value: str) -> Argument:
    """A device of torch."""
    return Argument(value, _DEVICE)


def path(value: str) -> Argument:
    """A file."""
    return Argument(value, _PATH)


def thing(value: object) -> Argument:
    """An object of one class."""
    return Argument(value, _OBJECT)
