"""Augmentations of whole minibatches against the per-image originals: torchvision's and Pillow's."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from training.deep import sub_policies
from training.deep.augment import Augmentation, crop, cutout, flip, resize
from training.deep.sub_policies import (
    FAST_RANGES,
    MIRRORED,
    OPERATIONS,
    Step,
    apply_policy,
    autoaugment_cifar10,
    read_policy,
)


def numbered(n, size, channels=1):
    """Images whose pixels all differ, none of them 0."""
    image = torch.arange(1, 1 + channels * size * size, dtype=torch.int32).reshape(1, channels, size, size)
    return image.repeat(n, 1, 1, 1)


def pictures(n=6, size=32, seed=0):
    """Smooth colourful uint8 images (n, 3, size, size)."""
    rng = np.random.default_rng(seed)
    coarse = torch.as_tensor(rng.uniform(0, 255, (n, 3, 5, 5)), dtype=torch.float32)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)


def same_frequencies(counts, n_outcomes, n_draws):
    """χ² of a uniform distribution, within 5 of its standard deviations √(2k) of its mean k."""
    k = n_outcomes - 1
    expected = n_draws / n_outcomes
    chi2 = sum((c - expected) ** 2 for c in counts.values()) / expected + expected * (n_outcomes - len(counts))
    assert len(counts) <= n_outcomes and abs(chi2 - k) < 5 * np.sqrt(2 * k), (chi2, k)


def test_crops_are_those_of_torchvision_and_equally_frequent():
    transforms = pytest.importorskip("torchvision.transforms")
    padding, size, n = 2, 4, 5000
    image = numbered(1, size)
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    offsets = range(2 * padding + 1)
    every = {tuple(padded[0, 0, y : y + size, x : x + size].flatten().tolist()) for y in offsets for x in offsets}
    assert len(every) == 25
    theirs = transforms.RandomCrop(size, padding=padding)
    torch.manual_seed(0)
    assert {tuple(theirs(image[0]).flatten().tolist()) for _ in range(250)} == every
    ours = Counter(map(tuple, crop(image.repeat(n, 1, 1, 1), padding, np.random.default_rng(0)).flatten(1).tolist()))
    assert set(ours) == every
    same_frequencies(ours, 25, n)


def test_crops_keep_the_colours_of_a_pixel_together():
    images = numbered(20, 6, channels=3)
    out = crop(images, 3, np.random.default_rng(1))
    seen = out[:, 0] > 0
    assert torch.equal(out[:, 1][seen] - out[:, 0][seen], torch.full_like(out[:, 0][seen], 36))
    assert crop(images, 0, None) is images


def test_half_of_the_images_are_mirrored():
    images = numbered(2000, 3)
    out = flip(images, np.random.default_rng(0))
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert torch.equal(out[~mirrored], images[~mirrored])
    same_frequencies(Counter(mirrored.tolist()), 2, 2000)


@pytest.mark.parametrize("size", [4, 3])
def test_cutout_is_the_published_one(size):
    side, n = 6, 6000
    ones = torch.ones(n, 2, side, side)
    out = cutout(ones, size, np.random.default_rng(0))
    assert torch.equal(out[:, 0], out[:, 1])
    every = {}
    for y in range(side):
        for x in range(side):
            mask = torch.ones(side, side)
            after = size - size // 2
            mask[max(y - size // 2, 0) : y + after, max(x - size // 2, 0) : x + after] = 0
            key = tuple(mask.flatten().tolist())
            every[key] = every.get(key, 0) + 1
    assert set(every.values()) == {1}
    same_frequencies(Counter(map(tuple, out[:, 0].flatten(1).tolist())), side * side, n)
    assert set(map(tuple, out[:, 0].flatten(1).tolist())) == set(every)


# -- operations --------------------------------------------------------------------------------------------------------

VALUES = {
    "ShearX": (0.29, -0.21),
    "ShearY": (0.29, -0.21),
    "TranslateX": (5 / 32, -14 / 32),
    "TranslateY": (5 / 32, -14 / 32),
    "Rotate": (30.0, -7.0),
    "Brightness": (1.9, 0.3),
    "Color": (1.9, 0.3),
    "Contrast": (1.9, 0.3),
    "Sharpness": (1.9, 0.3),
    "Posterize": (4, 7),
    "Solarize": (100.0, 255.0),
    "AutoContrast": (0.0, 0.0),
    "Equalize": (0.0, 0.0),
    "Invert": (0.0, 0.0),
}


def by_pillow(image, name, value):
    """One image (3, H, W) through Pillow, as the authors of the policies did."""
    image_module = pytest.importorskip("PIL.Image")
    from PIL import ImageEnhance, ImageOps

    picture = image_module.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    size = picture.size
    affine = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, -value * size[0], 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -value * size[1]),
    }
    if name in affine:
        picture = picture.transform(size, image_module.Transform.AFFINE, affine[name])
    elif name == "Rotate":
        picture = picture.rotate(value)
    elif name in ("Brightness", "Color", "Contrast", "Sharpness"):
        picture = getattr(ImageEnhance, name)(picture).enhance(value)
    else:
        arguments = {"Posterize": (int(value),), "Solarize": (value,)}.get(name, ())
        picture = getattr(ImageOps, name.lower())(picture, *arguments)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def assert_as_pillow(name, images, values):
    ours = OPERATIONS[name](images, values, None)
    theirs = torch.stack([by_pillow(image, name, value) for image, value in zip(images, values, strict=True)])
    assert ours.dtype == torch.uint8
    difference = (ours.int() - theirs.int()).abs()
    if name in MIRRORED:  # Pillow rounds positions to 1/65536: ties fall either way
        assert (difference > 0).double().mean() < 0.01
    else:  # grey levels are rounded in other places
        assert difference.max() <= (3 if name in ("Color", "Contrast", "Sharpness") else 1)
        assert difference.double().mean() < 0.6


@pytest.mark.parametrize("name", VALUES)
def test_operations_are_those_of_pillow(name):
    pytest.importorskip("torchvision")
    images = pictures()
    assert_as_pillow(name, images, np.array([VALUES[name][i % 2] for i in range(len(images))]))


PUBLISHED = {  # of Fast AutoAugment: what its level x from 0 to 1 makes of an operation
    **dict.fromkeys(("ShearX", "ShearY"), lambda x: 0.6 * x - 0.3),
    **dict.fromkeys(("TranslateX", "TranslateY"), lambda x: 0.9 * x - 0.45),
    "Rotate": lambda x: 60 * x - 30,
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), lambda x: 1.8 * x + 0.1),
    "Posterize": lambda x: 4 * x + 4,
    "Solarize": lambda x: 256 * x,
    "Cutout": lambda x: 0.2 * x,
    **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), lambda x: x),
}


def levels_of(name):
    """Levels with which the sub-policies found on ImageNet have the operation, as they are stored."""
    file = Path(sub_policies.__file__).parents[1] / "policies" / "fast-autoaugment-imagenet.json"
    entries = json.loads(file.read_text())
    return np.array([level for steps in entries for operation, _, level in steps if operation == name])


@pytest.mark.parametrize("name", VALUES)
def test_every_step_found_on_imagenet_is_that_of_pillow(name):
    pytest.importorskip("torchvision")
    values = np.array([PUBLISHED[name](level) for level in levels_of(name)])
    images = pictures(len(values), 64)
    assert_as_pillow(name, images, values)
    if name in MIRRORED:
        assert_as_pillow(name, images, -values)


def test_every_cutout_found_on_imagenet_is_that_of_pillow():
    draw = pytest.importorskip("PIL.ImageDraw")
    from PIL import Image

    values = 0.2 * levels_of("Cutout")
    images = pictures(len(values), 64)
    ours = OPERATIONS["Cutout"](images, values, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    centres = [rng.uniform(0, 64, len(values)) for _ in "yx"]
    for i, (y, x, side) in enumerate(zip(*centres, 64 * values, strict=True)):
        top, left = int(max(0, y - side / 2)), int(max(0, x - side / 2))
        picture = Image.fromarray(images[i].permute(1, 2, 0).contiguous().numpy())
        corners = (left, top, min(64, left + side), min(64, top + side))
        draw.Draw(picture).rectangle(corners, (125, 123, 114))
        assert_array_equal(ours[i].permute(1, 2, 0), np.array(picture))
    assert torch.equal(OPERATIONS["Cutout"](images, 0 * values, np.random.default_rng(0)), images)


def test_the_sub_policies_found_on_imagenet():
    """The values of each step against the published ranges; some entries as they are published, digits and all."""
    policy = sub_policies.fast_autoaugment_imagenet()
    assert len(policy) == len(set(policy)) == 498 and {len(steps) for steps in policy} == {2}
    steps = [step for steps in policy for step in steps]
    assert {step.name for step in steps} == set(OPERATIONS)
    for name in OPERATIONS:
        values = [step.values for step in steps if step.name == name]
        expected = np.array([PUBLISHED[name](level) for level in levels_of(name)])
        np.testing.assert_allclose(values, np.stack([expected, -expected if name in MIRRORED else expected], axis=1))
    published = {
        0: (("ShearY", 0.14143816458479197, 0.513124791615952), ("Sharpness", 0.9290316227291179, 0.9788406212603302)),
        2: (("Brightness", 0.6603452126485386, 0.6990174510500261), ("Cutout", 0.7742953773992511, 0.8362550883640804)),
        497: (
            ("AutoContrast", 0.5404508567155423, 0.7472387762067986),
            ("Equalize", 0.05649876539221024, 0.5628180219887216),
        ),
    }
    for number, entries in published.items():
        for step, (name, probability, level) in zip(policy[number], entries, strict=True):
            assert step.name == name and abs(step.probability - probability) <= 5e-5
            assert step.values[0] == pytest.approx(PUBLISHED[name](level), abs=256 * 5e-5)
    counts = Counter(step.name for step in steps)  # as counted in the published list
    assert (counts["Sharpness"], counts["Cutout"], counts["Invert"]) == (105, 76, 33)


@pytest.mark.parametrize("sign", [0, 1])
def test_autoaugment_is_that_of_torchvision(monkeypatch, sign):
    """Every sub-policy with both steps done and one sign, against torchvision's, image by image."""
    transforms = pytest.importorskip("torchvision.transforms")
    theirs = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    images, policy = pictures(2), autoaugment_cifar10(32)
    for number, steps in enumerate(policy):
        assert [step[:2] for step in steps] == [step[:2] for step in theirs.policies[number]]
        drawn = number, torch.tensor([-1.0, -1.0]), torch.tensor([sign, sign])  # below every probability
        monkeypatch.setattr(theirs, "get_params", lambda n, drawn=drawn: drawn)
        reference = torch.stack([theirs(image) for image in images])
        ours = images
        for step in steps:
            ours = OPERATIONS[step.name](ours, np.full(len(ours), step.values[1 - sign]), None)
        difference = (ours.int() - reference.int()).abs()
        # exact but for enhancements (a grey level) and what a threshold makes of that level
        assert (difference > 3).double().mean() < 0.003 and difference.double().mean() < 0.3, steps


def test_sub_policies_steps_and_signs_are_drawn_as_said(monkeypatch):
    """Operations that only record: 2 sub-policies of 2 steps."""
    seen = []

    def record(name):
        def operation(images, values, rng):
            seen.extend((name, i, v) for i, v in zip(images[:, 0, 0, 0].tolist(), values.tolist(), strict=True))
            return images

        return operation

    for name in ("Rotate", "Invert", "Color", "Equalize"):
        monkeypatch.setitem(sub_policies.OPERATIONS, name, record(name))
    policy = (
        (Step("Rotate", 0.7, (5.0, -5.0)), Step("Invert", 1.0, (0.0, 0.0))),
        (Step("Color", 0.2, (1.5, 1.5)), Step("Equalize", 0.0, (0.0, 0.0))),
    )
    n = 4000
    images = torch.arange(n)[:, None, None, None].expand(n, 3, 1, 1)
    out = apply_policy(images, policy, np.random.default_rng(3))
    assert torch.equal(out, images)
    counts = Counter(name for name, _, _ in seen)
    assert counts["Equalize"] == 0
    same_frequencies(Counter({"first": counts["Invert"], "second": n - counts["Invert"]}), 2, n)
    for name, p in (("Rotate", 0.35), ("Color", 0.1)):
        assert abs(counts[name] - n * p) < 4 * np.sqrt(n * p * (1 - p))
    signs = Counter(v for name, _, v in seen if name == "Rotate")
    assert set(signs) == {5.0, -5.0}
    same_frequencies(signs, 2, counts["Rotate"])
    assert {v for name, _, v in seen if name == "Color"} == {1.5}
    inverted = {i for name, i, _ in seen if name == "Invert"}
    assert {i for name, i, _ in seen if name == "Rotate"} <= inverted  # both steps of one sub-policy


def test_what_one_image_undergoes_leaves_the_others_alone():
    pytest.importorskip("torchvision")
    images = pictures(40)
    kept = images.clone()
    out = apply_policy(images, ((Step("Invert", 0.5, (0.0, 0.0)),),), np.random.default_rng(0))
    assert torch.equal(images, kept)
    inverted = (out == 255 - images).flatten(1).all(1)
    assert 0 < inverted.sum() < 40 and torch.equal(out[~inverted], images[~inverted])


def test_policies_from_a_file(tmp_path):
    path = tmp_path / "policies.json"
    path.write_text(
        json.dumps([[["ShearX", 0.5, 1.0], ["Solarize", 1, 0.25]], [["Color", 0, 0], ["Cutout", 0.1, 0.5]]])
    )
    policy = read_policy(path)
    assert policy[0] == (Step("ShearX", 0.5, (0.3, -0.3)), Step("Solarize", 1, (64.0, 64.0)))
    assert policy[1] == (Step("Color", 0, (0.1, 0.1)), Step("Cutout", 0.1, (0.1, 0.1)))
    assert set(FAST_RANGES) == set(OPERATIONS)
    pytest.importorskip("torchvision")
    assert apply_policy(pictures(), policy, np.random.default_rng(0)).shape == (6, 3, 32, 32)
    for bad in ("", "{", "[]", "[[]]", '[[["Wobble", 0.5, 0.5]]]', '[[["Color", 2, 0.5]]]', '[[["Color", 1]]]', "[3]"):
        path.write_text(bad)
        with pytest.raises(ValueError, match=r"policies\.json"):
            read_policy(path)
    with pytest.raises(FileNotFoundError):
        read_policy(tmp_path / "none.json")


def test_all_of_it_in_one_call():
    pytest.importorskip("torchvision")
    images = pictures(16)
    mean, std = torch.full((3, 1, 1), 100.0), torch.full((3, 1, 1), 50.0)
    augmentation = Augmentation(size=48, policy=autoaugment_cifar10(48), padding=6, cutout=8)
    out = augmentation(images, mean, std, np.random.default_rng(5))
    assert out.shape == (16, 3, 48, 48) and out.dtype == torch.float32
    assert torch.equal(out, augmentation(images, mean, std, np.random.default_rng(5)))
    assert not torch.equal(out, augmentation(images, mean, std, np.random.default_rng(6)))
    plain = augmentation.plain(images, mean, std)
    assert torch.allclose(plain, (resize(images, 48).float() - 100) / 50)
    assert torch.equal(Augmentation().plain(images, mean, std), (images.float() - 100) / 50)
    plain = Augmentation(flip=False)(images, mean, std, np.random.default_rng(0))
    assert torch.equal(plain, (images.float() - 100) / 50)


@pytest.mark.parametrize("interpolation, size", [("bicubic", 224), ("bilinear", 224), ("bicubic", 20)])
def test_sizes_are_made_as_pillow_does(interpolation, size):
    image_module = pytest.importorskip("PIL.Image")
    images = pictures(3)
    ours = resize(images, size, interpolation)
    filters = {"bicubic": image_module.Resampling.BICUBIC, "bilinear": image_module.Resampling.BILINEAR}
    for image, mine in zip(images, ours, strict=True):
        picture = image_module.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        theirs = torch.from_numpy(np.array(picture.resize((size, size), filters[interpolation]))).permute(2, 0, 1)
        difference = (mine.int() - theirs.int()).abs()  # Pillow rounds between rows and columns, too
        assert difference.max() <= 2 and difference.double().mean() < 0.2
    assert torch.equal(resize(images, 32, interpolation), images)


def test_sub_policies_first_or_last():
    """Inverted before the crop, its padding is black; after it, white."""
    images = torch.full((40, 3, 8, 8), 255, dtype=torch.uint8)
    invert = ((Step("Invert", 1.0, (0.0, 0.0)),),)
    for policy_last, expected in ((False, {0}), (True, {0, 255})):
        augmentation = Augmentation(policy=invert, padding=2, policy_last=policy_last)
        out = augmentation(images, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), np.random.default_rng(0))
        assert set(out.unique().tolist()) == expected
    bicubic = Augmentation(size=16, interpolation="bicubic")
    plain = bicubic.plain(pictures(2, 8), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    assert torch.equal(plain, resize(pictures(2, 8), 16, "bicubic").float())
