"""Images and targets of classifiers: views, smoothing, mixing, records."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from gluon_compress.data import (
    Batches,
    ClassTargets,
    ImageFolder,
    Mixup,
    ProgressiveBatches,
    RecordBatches,
    Records,
    crop_train_sample,
    crop_val_sample,
    normalize,
)
from images import NAMES, picture, write_folder, write_records

CHANGES = {"least_area": 0.3, "jitter": 0.3, "lighting": 0.05}
PLAIN = {"least_area": 1.0, "jitter": 0.0, "lighting": 0.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------- views


def test_validation_sees_the_middle():
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 32:96] = 200  # the square in the middle
    view, label = crop_val_sample(image, 2, 56)
    assert view.shape == (56, 56, 3)
    assert label == 2
    assert (view == 200).all()  # 56 of 64 pixels of the shorter side


def test_validation_keeps_the_proportions():
    image = np.zeros((80, 160, 3), np.uint8)
    image[20:60, 60:100] = 255  # a square
    view, _ = crop_val_sample(image, 0, 70)
    rows, columns = (np.flatnonzero(view[..., 0].max(axis=a) > 128) for a in (1, 0))
    assert len(rows) == len(columns) == 40


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (1, 1), (33, 33)])
def test_training_view_has_its_size_for_any_image(shape):
    image = rng().integers(0, 256, (*shape, 3)).astype(np.uint8)
    for seed in range(5):
        view, _ = crop_train_sample(image, 0, 24, rng(seed))
        assert view.shape == (24, 24, 3)
        assert view.dtype == np.uint8


def test_whole_square_without_changes_is_the_image_or_its_mirror():
    image = picture(1, 0)[:, :40]
    views = [crop_train_sample(image, 0, 40, rng(s), **PLAIN)[0] for s in range(20)]
    same = [(view == image).all() for view in views]
    mirrored = [(view == image[:, ::-1]).all() for view in views]
    assert all(a or b for a, b in zip(same, mirrored))
    assert 0 < sum(same) < 20


def test_seen_area_and_aspect_are_within_their_limits():
    height, width = 200, 300
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns % 256, columns // 256], axis=2).astype(np.uint8)
    from gluon_compress.data.imagenet_transforms import _crop

    for seed in range(200):
        top, left, h, w = _crop(image.shape[:2], 0.2, 1.0, rng(seed))
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        assert 0.19 <= h * w / (height * width) <= 1
        assert 0.73 <= w / h <= 1.36


def test_colours_change_as_their_formula_says():
    from gluon_compress.data.imagenet_transforms import _GRAY, _colours

    view = rng().integers(60, 120, (5, 5, 3)).astype(np.uint8)
    matrix = _colours(view, 0.2, 0.0, rng(3))
    bright, contrast, colour = rng(3).uniform(0.8, 1.2, 3)
    pixels = view.reshape(-1, 3).astype(float) * bright
    pixels = contrast * pixels + (1 - contrast) * (pixels @ _GRAY).mean()
    pixels = colour * pixels + (1 - colour) * (pixels @ _GRAY)[:, None]
    found = view.reshape(-1, 3) @ matrix[:, :3].T + matrix[:, 3]
    np.testing.assert_allclose(found, pixels, atol=1e-9)


def test_no_jitter_is_no_change():
    from gluon_compress.data.imagenet_transforms import _colours

    view = picture(0, 0)
    expected = np.hstack([np.eye(3), np.zeros((3, 1))])
    np.testing.assert_allclose(_colours(view, 0, 0, rng()), expected, atol=1e-12)


# ----------------------------------------------------------------------- targets


def test_smoothed_targets():
    (targets,) = ClassTargets(4, smoothing=0.2)([1, 3])
    low, high = 0.05, 0.85
    expected = [[low, high, low, low], [low, low, low, high]]
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    assert targets.dtype == np.float32


@pytest.mark.parametrize("label", [-1, 4])
def test_label_of_no_class_is_refused(label):
    with pytest.raises(ValueError, match=f"class {label}; allowed: 0 to 3"):
        ClassTargets(4)([0, label])


def test_mixed_batch_is_a_share_of_itself_and_its_reverse():
    images = rng().normal(size=(3, 2, 4, 4)).astype(np.float32)
    (targets,) = ClassTargets(3)([0, 1, 2])
    mixed, chances = Mixup(0.4)((images, targets), rng(5))
    share = rng(5).beta(0.4, 0.4)
    expected = share * images + (1 - share) * images[::-1]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(chances[0], [share, 0, 1 - share], atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), train=4, val=2)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("packed"), train=4, val=2)


def mixed_batches(folder) -> Batches:
    sample = partial(crop_train_sample, size=16, **CHANGES)
    targets, mix = ClassTargets(3), Mixup(0.4)
    images = ImageFolder(folder / "train")
    return Batches(images, sample, 4, seed=2, targets=targets, mix=mix)


def test_mixing_is_a_function_of_seed_epoch_and_batch(folder):
    whole = list(mixed_batches(folder).epoch(3))
    again = list(mixed_batches(folder).epoch(3, 2))
    assert len(whole) == 3
    for one, other in zip(whole[2], again[0]):
        assert (one.asnumpy() == other.asnumpy()).all()
    shares = {float(targets.asnumpy().max()) for _, targets in whole}
    assert len(shares) == 3


def test_early_epochs_see_small_images(folder):
    images = ImageFolder(folder / "train")
    early, late = (
        Batches(images, partial(crop_train_sample, size=s), 4, last="fill")
        for s in (16, 24)
    )
    batches = ProgressiveBatches(early, late, 2)
    sizes = [next(iter(batches.epoch(n)))[0].shape[-1] for n in range(4)]
    assert sizes == [16, 16, 24, 24]
    assert len(batches) == 3


# ----------------------------------------------------------------------- records


def epoch_of(batches, number: int = 0, start: int = 0) -> list[tuple]:
    return [tuple(a.asnumpy() for a in b) for b in batches.epoch(number, start)]


def test_packed_validation_is_the_folder_s(folder, packed):
    sample = partial(crop_val_sample, size=32)
    images = ImageFolder(folder / "val")
    plain = epoch_of(Batches(images, sample, 4, shuffle=False))
    records = Records(packed / "val.rec", NAMES)
    found = epoch_of(RecordBatches(records, 4, 32, shuffle=False))
    assert [len(x) for x, _ in found] == [len(x) for x, _ in plain] == [4, 2]
    for (x, ids), (y, others) in zip(found, plain):
        assert (ids == others).all()
        # The noise looks different after another way to resize.
        assert np.abs(x.mean((2, 3)) - y.mean((2, 3))).max() < 0.1


def test_unchanged_record_is_normalised_as_a_folder_s_image(packed):
    from gluon_compress.data.preprocess import CROPPED

    records = Records(packed / "val.rec", NAMES)
    # A side of 35 is cut from 40: nothing is resized.
    (batch,) = epoch_of(RecordBatches(records, 6, 35, shuffle=False))
    whole = normalize([CROPPED.resize(picture(0, 1000), 40, 52)])[0]
    np.testing.assert_allclose(batch[0][0], whole[:, 2:37, 8:43], atol=0.02)


def test_packed_training_fills_its_last_batch_and_repeats_itself(packed):
    records = Records(packed / "train.rec", NAMES)
    targets = ClassTargets(3, smoothing=0.1)

    def batches(workers: int) -> RecordBatches:
        return RecordBatches(
            records, 5, 16, changes=CHANGES, seed=1, workers=workers, targets=targets
        )

    first, again = epoch_of(batches(2), 1), epoch_of(batches(1), 1)
    assert len(batches(2)) == len(first) == 3
    assert all(x.shape == (5, 3, 16, 16) for x, _ in first)
    for (x, t), (y, u) in zip(first, again):
        assert (x == y).all()
        assert (t == u).all()
    other = epoch_of(batches(2), 2)
    assert any((x != y).any() for (x, _), (y, _) in zip(first, other))
    later = epoch_of(batches(2), 1, 2)
    assert (later[0][0] == first[2][0]).all()


def test_every_record_is_seen_once_in_an_epoch(packed):
    records = Records(packed / "train.rec", NAMES)
    batches = RecordBatches(records, 4, 16, changes=CHANGES, seed=4)
    ids = np.concatenate([ids for _, ids in epoch_of(batches)])
    assert sorted(ids) == [0] * 4 + [1] * 4 + [2] * 4


def test_missing_index_is_named(tmp_path, packed):
    (tmp_path / "train.rec").write_bytes((packed / "train.rec").read_bytes())
    with pytest.raises(ValueError, match=r"train\.idx: there is no such file"):
        Records(tmp_path / "train.rec", NAMES)


@pytest.mark.parametrize("content", ["", "no index\n", "1\tx\n"])
def test_index_that_is_none_is_named(tmp_path, content):
    (tmp_path / "a.rec").write_bytes(b"")
    (tmp_path / "a.idx").write_text(content)
    with pytest.raises(ValueError, match=r"a\.idx: not an index of records"):
        Records(tmp_path / "a.rec", NAMES)


def test_record_of_no_class_is_refused(packed):
    records = Records(packed / "val.rec", NAMES[:2])
    batches = RecordBatches(records, 6, 16, targets=ClassTargets(2))
    with pytest.raises(ValueError, match="class 2; allowed: 0 to 1"):
        list(batches.epoch(0))


def test_broken_records_are_found(tmp_path, packed):
    content = bytearray((packed / "val.rec").read_bytes())
    start = content.index(b"PNG") + 20
    content[start : start + 200] = bytes(200)
    (tmp_path / "val.rec").write_bytes(content)
    (tmp_path / "val.idx").write_bytes((packed / "val.idx").read_bytes())
    found = Records(tmp_path / "val.rec", NAMES[:2]).verify()
    assert found["images"] == 3
    reasons = dict(found["problems"])
    assert len(reasons) == 3  # one is damaged, two are of the third class
    assert reasons[f"{tmp_path / 'val.rec'}: record 0"] == "cannot be decoded"
    assert Records(packed / "val.rec", NAMES).verify() == {"images": 6, "problems": []}
