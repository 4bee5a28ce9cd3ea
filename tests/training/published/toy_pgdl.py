"""Folders of models as the competition hands them out."""

import json

SHAPE = (7, 6, 2)


def write(folder, layers, arrays, shape=SHAPE):
    """A model's folder; `arrays` are lists, one for each layer with weights, named as Keras names them."""
    import h5py  # not everywhere

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_config": layers, "input_shape": list(shape)}))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        names = [f"wrapped_layer_{i}" if i else "wrapped_layer" for i in range(len(arrays))]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name, values in zip(names, arrays, strict=True):
            group = file.create_group(name)
            weight_names = [f"{name}/array{j}:0" for j in range(len(values))]
            group.attrs["weight_names"] = [n.encode() for n in weight_names]
            for n, value in zip(weight_names, values, strict=True):
                group[n] = value
    return folder
