"""Augmentations of whole minibatches against the per-image originals: torchvision's and Pillow's."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from training import augment
from training.augment import (
    FAST_RANGES,
    MIRRORED,
    OPERATIONS,
    Augmentation,
    Step,
    apply_policy,
    autoaugment_cifar10,
    crop,
    cutout,
    flip,
    read_policy,
    resize,
)


def numbered(n, size, channels=1):
    """Images whose pixels all differ, none of them 0."""
    one = torch.arange(1, 1 + channels * size * size, dtype=torch.int32).reshape(1, channels, size, size)
    return one.repeat(n, 1, 1, 1)


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
    one = numbered(1, size)
    padded = torch.nn.functional.pad(one, (padding,) * 4)
    offsets = range(2 * padding + 1)
    every = {tuple(padded[0, 0, y : y + size, x : x + size].flatten().tolist()) for y in offsets for x in offsets}
    assert len(every) == 25
    theirs = transforms.RandomCrop(size, padding=padding)
    torch.manual_seed(0)
    assert {tuple(theirs(one[0]).flatten().tolist()) for _ in range(250)} == every
    ours = Counter(map(tuple, crop(one.repeat(n, 1, 1, 1), padding, np.random.default_rng(0)).flatten(1).tolist()))
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
        arguments = () if value == 0 else (int(value),)
        picture = getattr(ImageOps, name.lower())(picture, *arguments)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.mark.parametrize("name", VALUES)
def test_operations_are_those_of_pillow(name):
    pytest.importorskip("torchvision")
    images = pictures()
    values = np.array([VALUES[name][i % 2] for i in range(len(images))])
    ours = OPERATIONS[name](images, values, None)
    theirs = torch.stack([by_pillow(image, name, value) for image, value in zip(images, values, strict=True)])
    assert ours.dtype == torch.uint8
    difference = (ours.int() - theirs.int()).abs()
    if name in MIRRORED:  # Pillow rounds positions to 1/65536: ties fall either way
        assert (difference > 0).double().mean() < 0.01
    else:  # grey levels are rounded in other places
        assert difference.max() <= (3 if name in ("Color", "Contrast", "Sharpness") else 1)
        assert difference.double().mean() < 0.6


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
        monkeypatch.setitem(augment.OPERATIONS, name, record(name))
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


def test_the_square_of_fast_autoaugment():
    images = torch.zeros(300, 3, 20, 20, dtype=torch.uint8)
    out = OPERATIONS["Cutout"](images, np.full(300, 0.2), np.random.default_rng(0))
    assert torch.equal(out[:, 0] > 0, out[:, 2] > 0) and set(out[:, 1].unique().tolist()) == {0, 123}
    sides = (out[:, 0].amax(1) > 0).sum(1)
    assert sides.max() == 5 and sides.min() >= 3  # 4 pixels and the last one, less at the border
    assert not OPERATIONS["Cutout"](images, np.zeros(300), np.random.default_rng(0)).any()


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
    nothing = Augmentation(flip=False)(images, mean, std, np.random.default_rng(0))
    assert torch.equal(nothing, (images.float() - 100) / 50)
