"""Files that are whole, but not what they are taken for: made up field by field, header by header."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bpflat.cli import main
from tests.fuzz.kinds import KINDS, Kind, written
from tests.training.published import toy_pgdl
from tests.training.published.toy_records import crc32c, masked, part, tensor, varint
from training.deep.sub_policies import read_policy
from training.published.pgdl import load_model, read_records
from training.published.tfrecords import read_images

DEEP = "[" * 100_000
LINEAR = {"weight": torch.eye(9), "bias": torch.zeros(9)}
FLATNESS = [
    "flatness",
    "torch.nn:Linear",
    "--model-options",
    '{"in_features": 9, "out_features": 9}',
    "--sigmas",
    "0.1",
]


class Crafted(NamedTuple):
    """A made-up file: what is wrong with it, who writes it to a path, and who reads it there."""

    label: str
    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def command(*arguments: str) -> Callable[[Path], None]:
    """Reader that is the command ``bpflat``, with the path in the place of "PATH"; its refusal becomes a ValueError."""

    def read(path: Path) -> None:
        err = io.StringIO()
        with redirect_stderr(err), redirect_stdout(io.StringIO()):
            status = main([str(path) if argument == "PATH" else argument for argument in arguments])
        if status:
            raise ValueError(err.getvalue().removesuffix("\n"))

    return read


# -- arrays ------------------------------------------------------------------------------------------------------------


def other_values(array: np.ndarray) -> dict[str, Any]:
    """What could stand in the place of an array."""
    return {
        "nothing": None,
        "a number": 3.5,
        "an integer": -7,
        "a text": "seven",
        "a list of JSON": "[1, 2]",
        "an object of JSON": '{"a": [1]}',
        "deep JSON": DEEP,
        "no entries": np.zeros(0),
        "NaN": np.full(array.shape, np.nan),
        "texts": np.full(array.shape, "a"),
        "flags": np.ones(array.shape, bool),
        "zeros": np.zeros(array.shape, np.int64),
        "complex": np.full(array.shape, 1j),
        "an axis more": array[None],
        "twice as many": np.concatenate([np.atleast_1d(array)] * 2),
        "dates": np.full(array.shape, np.datetime64("2020-01-01")),
        "records": np.zeros(3, "i4,f4"),
        "bytes": np.bytes_(b"\xff\0\xff"),
        "surrogates": np.array([0xD800], np.uint32).view("U1")[0:1].reshape(()),
        "beyond Unicode": np.array([0x7FFFFFFF], np.uint32).view("U1").reshape(()),
    }


def arrays_with_another(kind: Kind, path: Path, field: str, value: Any) -> None:
    """A file of this kind in which one array is another."""
    with np.load(written(kind, path.parent)) as archive:
        arrays = dict(archive) | {field: value}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def crafted_arrays(folder: Path) -> Iterator[Crafted]:
    commands = {"mine.npz": [command("energy", "PATH", "--sigmas", "0.1"), command("entropy", "PATH", "--deltas", "1")]}
    for kind in (kind for kind in KINDS if kind.name.endswith(".npz")):
        with np.load(written(kind, folder)) as archive:
            arrays = dict(archive)
        for field, array in arrays.items():
            for label, value in other_values(array).items():
                for read in (kind.read, command("info", "PATH"), *commands.get(kind.name, ())):
                    what = f"{kind.name}: {field} is {label}"

                    def write(path, kind=kind, field=field, value=value):
                        return arrays_with_another(kind, path, field, value)

                    yield Crafted(what, kind.name, write, read)


def header(text: str, version: int = 1) -> bytes:
    """The beginning of an .npy file."""
    content = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(content)) + content


def crafted_headers() -> Iterator[Crafted]:
    fields = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}}}"
    cases = [
        ("<f8", False, (10**12,)),
        ("<f8", False, (-1,)),
        ("<f8", False, (2**62, 4)),
        ("<f8", True, (0, 10**30)),
        ("<U0", False, (10**12,)),
        ("|V0", False, (10**12,)),
        ("|S1000000000", False, (1,)),
        ("|O", False, (1,)),
        ("<f8", False, "(2.5,)"),
        ("<f8", False, "[1]"),
        ("<f8", "None", (1,)),
        ("no dtype", False, (1,)),
        ("<f8", False, DEEP[:90]),
    ]
    for version in (1, 2, 3, 9):
        for case in cases:
            content = header(fields.format(*case), version) + bytes(8)

            def write(path, content=content):
                with zipfile.ZipFile(path, "w") as archive:
                    archive.writestr("weights.npy", content)
                    archive.writestr("kind.npy", content)

            for read in (command("energy", "PATH"), command("info", "PATH")):
                yield Crafted(f"header {case} of version {version}", "header.npz", write, read)


def crafted_bytes() -> Iterator[Crafted]:
    contents = [b"", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\xff" * 18, b"PK\x03\x04", b"\x80\x04]\x94.", b"{}"]
    contents += [np.random.default_rng(seed).bytes(500) for seed in range(4)]
    for content in contents:
        for name, read in [
            ("a.npz", command("info", "PATH")),
            ("a.npz", command("entropy", "PATH")),
            ("a.pt", command(*FLATNESS, "--data", "PATH")),
            *((kind.name, kind.read) for kind in KINDS),
        ]:
            yield Crafted(f"{name} is {content[:8]!r}", name, lambda path, c=content: path.write_bytes(c), read)


# -- tensors -----------------------------------------------------------------------------------------------------------


def crafted_tensors(folder: Path) -> Iterator[Crafted]:
    knot: list[Any] = []
    knot.append(knot)
    weights = [
        {"weight": torch.tensor(1.0), "bias": torch.tensor(1.0)},
        {0: torch.eye(9), 1: torch.zeros(9)},
        {"weight": [1.0] * 9, "bias": "zero"},
        LINEAR | {"bias": torch.zeros(1).expand(10**9)},
        LINEAR | {"bias": torch.zeros(9, device="meta")},
        LINEAR | {"bias": torch.zeros(9).to_sparse()},
        LINEAR | {"bias": torch.full((9,), torch.nan)},
        LINEAR | {"bias": torch.zeros(9, dtype=torch.complex64)},
        LINEAR | {"bias": torch.zeros(9).bool()},
        LINEAR | {"bias": torch.zeros(3, 3)},
        {"state_dict": LINEAR | {"bias": None}},
        {"state_dict": {"state_dict": LINEAR}},
        {"module.weight": torch.eye(9), "bias": torch.zeros(9)},
        {},
        [],
        None,
        "text",
        torch.eye(9),
        knot,
    ]
    pairs = [torch.eye(9), torch.arange(9)]
    data = [
        {"inputs": torch.eye(9)},
        {"inputs": "text", "targets": "text"},
        {"inputs": [["a"]], "targets": [0]},
        {"inputs": torch.zeros(9, 9, device="meta"), "targets": torch.arange(9)},
        {"inputs": torch.zeros(1, 1).expand(10**6, 9), "targets": torch.zeros(1).long().expand(10**6)},
        {"inputs": torch.eye(9).to_sparse(), "targets": torch.arange(9)},
        {0: torch.eye(9), 1: torch.arange(9)},
        [torch.eye(9), torch.arange(9).float()],
        [torch.eye(9), torch.arange(8)],
        [torch.eye(9)[0], torch.arange(9)],
        [torch.tensor(1.0), torch.tensor(1)],
        [torch.eye(9) * 1j, torch.arange(9)],
        [*pairs, pairs],
        [None, None],
        [[], []],
        [{}, {}],
        knot,
        7,
    ]
    torch.save(tuple(pairs), folder / "pairs.pt")
    with_weights = command(*FLATNESS, "--data", str(folder / "pairs.pt"), "--weights", "PATH")
    for content in weights:
        yield Crafted(f"weights {str(content)[:60]}", "a.pt", lambda path, c=content: torch.save(c, path), with_weights)
    for content in data:
        read = command(*FLATNESS, "--data", "PATH")
        yield Crafted(f"data {str(content)[:60]}", "a.pt", lambda path, c=content: torch.save(c, path), read)
    state = next(kind for kind in KINDS if kind.name == "checkpoint.pt")
    for key in ("configuration", "epoch", "gamma0", "curves", "flatness", "models", "optimizer"):
        for value in (None, -1, "text", [], {}, [1], [{}], {"a": 1}, DEEP, torch.eye(2), [{"epoch": 1}], knot):

            def write(path, key=key, value=value):
                torch.save(torch.load(written(state, path.parent)) | {key: value}, path)

            yield Crafted(f"checkpoint with {key} {str(value)[:20]}", state.name, write, state.read)


# -- JSON, records -----------------------------------------------------------------------------------------------------


def crafted_json(folder: Path) -> Iterator[Crafted]:
    dense = {"layer_name": "Dense", "units": 2}
    rng = np.random.default_rng(0)
    model = toy_pgdl.write(folder / "model", [dense], [[rng.normal(size=(3, 2)), rng.normal(size=2)]], shape=(3,))
    layers = [
        *({}, [], None, 7, "Dense", {"layer_name": []}, {"layer_name": "LSTM"}, {"layer_name": "Dense"}),
        *(dense | {"units": units} for units in (3, -1, 1e308, 10**9, "two", None, [], {}, float("nan"))),
        *(dense | {"activation": activation} for activation in ([], {}, 3, "mish", None)),
        *({"layer_name": "Conv2D", "filters": 2, "kernel_size": size} for size in (3, 0, 1e9, [1], [[]], None)),
        *({"layer_name": "MaxPooling2D", "pool_size": size, "padding": "same"} for size in (10**6, [1, 2, 3], "2")),
        *({"layer_name": "Dropout", "rate": rate} for rate in (2, None, "a", [])),
        *(dense | {"data_format": form} for form in ("channels_first", 3, [])),
        *(dense | {option: 1} for option in ("dilation_rate", "groups", "self", "weights")),
    ]
    configurations = [{"model_config": [layer], "input_shape": [3]} for layer in layers]
    shapes = ([], [-3], [10**15], [3, 3], [3, 3, 3, 3], ["a"], None, {}, [1e400], [10**9, 10**9, 3])
    configurations += [{"model_config": [dense], "input_shape": shape} for shape in shapes]
    configurations += [{"model_config": 3, "input_shape": [3]}, {"model_config": {}, "input_shape": [3]}, [], 3, {}]

    def read(path: Path) -> Any:
        (path.parent / "weights.hdf5").write_bytes((model / "weights.hdf5").read_bytes())
        return load_model(path.parent)

    for content in configurations:
        text = json.dumps(content)
        yield Crafted(f"configuration {text[:60]}", "config.json", lambda path, t=text: path.write_text(t), read)
    metrics = {"train_acc": 1.0, "test_acc": 0.5}
    records = [
        *(
            {name: {"hparams": {}, "metrics": metrics}}
            for name in ("x/../../escaped", "..", ".", "/a", "", "a\0", "\n")
        ),
        *(
            {"a": {"hparams": {}, "metrics": metrics | {"test_acc": x}}}
            for x in ("1", None, [], float("nan"), 7, 1e999)
        ),
        *({"a": {"hparams": x, "metrics": metrics}} for x in ([], 3, {"a": 3}, {"a": {}}, {"a": []})),
        *({"a": x} for x in ([], 3, None, "a")),
        *([], 3, None, "a"),
    ]
    for content in records:
        text = json.dumps(content)
        read_all = lambda path: read_records(path.parent)  # noqa: E731
        yield Crafted(f"records {text[:60]}", "model_configs.json", lambda path, t=text: path.write_text(t), read_all)
    for text in (DEEP, "7" * 5000, "nul", '"\\ud800"', "[[[1]]]", '[[["Rotate", 2, 0.5]]]', '[[["Rotate", "a", {}]]]'):
        yield Crafted(f"policy {text[:60]}", "policy.json", lambda path, t=text: path.write_text(t), read_policy)
        yield Crafted(f"JSON {text[:60]}", "config.json", lambda path, t=text: path.write_text(t), read)


def record(example: bytes) -> bytes:
    length = struct.pack("<Q", len(example))
    return length + masked(crc32c(length)) + example + masked(crc32c(example))


def crafted_records() -> Iterator[Crafted]:
    image, label = tensor(np.zeros((2, 2, 1), np.float32)), tensor(np.array(1, np.int32))
    endless = b"\xff" * 40
    images = [
        tensor(np.zeros((2, 2), np.float32)),
        tensor(np.full((2, 2, 1), np.nan, np.float32)),
        tensor(np.zeros((0, 2, 1), np.float32)),
        b"\x08\x01" + part(2, part(2, b"\x08" + varint(2**60))) + part(4, bytes(4)),
        b"\x08\x63" + part(4, bytes(4)),
        *(b"", b"\x08", endless, b"\x08\x01", part(2, endless), b"\x0b", b"\x08\x07" + part(4, b"text")),
    ]
    for inputs, output in [*((image, x) for x in images), *((x, label) for x in images)]:
        features = {"inputs": inputs, "output": output}
        entries = [part(1, part(1, key.encode()) + part(2, part(1, part(1, x)))) for key, x in features.items()]
        for example in (part(1, b"".join(entries)), part(1, entries[0]), part(2, entries[0]), endless, b"", inputs):
            content = record(example)
            yield Crafted(
                f"record {example[:20]!r}",
                "images.tfrecord",
                lambda path, c=content: path.write_bytes(c),
                lambda path: read_images(path.parent),
            )
    for length in (0, 1, 2**40, 2**64 - 1):
        content = struct.pack("<Q", length) + masked(crc32c(struct.pack("<Q", length))) + bytes(20)
        yield Crafted(
            f"a record of {length} bytes",
            "images.tfrecord",
            lambda path, c=content: path.write_bytes(c),
            lambda path: read_images(path.parent),
        )


def all_crafted(folder: Path) -> list[Crafted]:
    """Every made-up file, in an order in which a part is a sample of all."""
    every = [*crafted_arrays(folder), *crafted_headers(), *crafted_bytes(), *crafted_tensors(folder)]
    every += [*crafted_json(folder), *crafted_records()]
    return [every[i] for i in np.random.default_rng(500).permutation(len(every))]
