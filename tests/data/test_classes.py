"""Images and targets of classifiers: views, smoothing, mixing, records."""

from __future__ import annotations

import struct
from functools import partial

import cv2
import numpy as np
import pytest
from mxnet import recordio

from gluon_compress.data import (
    Batches,
    ClassTargets,
    ImageFolder,
    Mixup,
    ProgressiveBatches,
    Records,
    crop_train_sample,
    crop_val_sample,
)
from gluon_compress.data.images import PIXEL_LIMIT
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


def test_packed_images_are_the_folder_s(folder, packed):
    images, records = ImageFolder(folder / "val"), Records(packed / "val.rec", NAMES)
    assert records.labels == images.labels
    for number in range(len(images)):
        (image, label), (pixels, id_) = images[number], records[number]
        np.testing.assert_array_equal(image, pixels)
        assert label == id_


def rewritten(packed, folder, lines=slice(None), **replaced) -> Records:
    """Open a copy of the packed set with some lines of its index, or other contents."""
    for kind in ("rec", "idx"):
        data = replaced.get(kind, (packed / f"val.{kind}").read_bytes())
        (folder / f"val.{kind}").write_bytes(data)
    if "idx" not in replaced:
        rows = (packed / "val.idx").read_bytes().splitlines(keepends=True)
        (folder / "val.idx").write_bytes(b"".join(rows[lines]))
    return Records(folder / "val.rec", NAMES)


@pytest.mark.parametrize("lines", [slice(0, 3), slice(3, 6), slice(1, 6, 2)])
def test_index_of_some_records_is_a_set_of_these(packed, tmp_path, lines):
    whole, part = Records(packed / "val.rec", NAMES), rewritten(packed, tmp_path, lines)
    sample = partial(crop_val_sample, size=16)
    seen = [ids for _, ids in epoch_of(Batches(part, sample, 2, shuffle=False))]
    assert np.concatenate(seen).tolist() == whole.labels[lines]
    assert len(part) == 3


def test_record_that_holds_the_magic_number_is_joined(tmp_path):
    from gluon_compress.data.recordio import Record, _content

    magic = (0xCED7230A).to_bytes(4, "little")
    content = b"abcd" + magic + b"efgh" + magic + b"ij"
    writer = recordio.MXRecordIO(str(tmp_path / "a.rec"), "w")
    writer.write(content)
    writer.close()
    with open(tmp_path / "a.rec", "rb") as file:
        assert _content(Record(tmp_path / "a.rec", "0", 0), file, None) == content


def test_missing_index_is_named(tmp_path, packed):
    (tmp_path / "train.rec").write_bytes((packed / "train.rec").read_bytes())
    with pytest.raises(ValueError, match=r"train\.idx: there is no such file"):
        Records(tmp_path / "train.rec", NAMES)


@pytest.mark.parametrize(
    "content",
    [b"", b"no index\n", b"1\tx\n", b"1\t-4\n", b"1\t99999999\n", b"0\t0\n1\t0\n"]
    + [b"\xff\xfe\t\0", b"1\t" + b"9" * 5000],
)
def test_damaged_index_is_named_in_one_line(packed, tmp_path, content):
    with pytest.raises(ValueError, match=r"val\.idx: ") as info:
        rewritten(packed, tmp_path, idx=content)
    assert len(str(info.value)) < 400 + 2 * len(str(tmp_path))
    assert "\n" not in str(info.value)


def write_record(folder, label, content: bytes) -> None:
    """Write ``a.rec`` with one record, of one label or of a list."""
    listed = np.ravel(label).astype(np.float32).tobytes() if np.ndim(label) else b""
    head = struct.pack("<IfQQ", np.size(label), 0, 7, 0)
    if not listed:
        head = struct.pack("<IfQQ", 0, label, 7, 0)
    names = (str(folder / f"a.{kind}") for kind in ("idx", "rec"))
    writer = recordio.MXIndexedRecordIO(*names, "w")
    writer.write_idx(7, head + listed + content)
    writer.close()


@pytest.mark.parametrize(
    ("label", "message"),
    [(2, "class 2; allowed: 0 to 1"), (-1, "class -1"), (0.5, "class 0.5")]
    + [(np.nan, "class nan"), ([0, 1], "2 labels; allowed: one")],
)
def test_record_of_no_class_is_refused(tmp_path, label, message):
    write_record(tmp_path, label, b"image")
    with pytest.raises(ValueError, match=rf"a\.rec: .*{message}"):
        Records(tmp_path / "a.rec", NAMES[:2])


def test_label_can_be_a_list_of_one(tmp_path):
    _, content = cv2.imencode(".png", picture(1, 0)[..., ::-1])
    write_record(tmp_path, [1.0], content.tobytes())
    image, label = Records(tmp_path / "a.rec", NAMES)[0]
    assert label == 1
    np.testing.assert_array_equal(image, picture(1, 0))


def test_broken_records_are_found(tmp_path, packed):
    content = bytearray((packed / "val.rec").read_bytes())
    start = content.index(b"PNG") + 60
    content[start : start + 200] = bytes(200)
    records = rewritten(packed, tmp_path, rec=bytes(content))
    assert records.problems == []  # pixels are read later
    found = records.verify()
    assert found["images"] == 5
    ((record, reason),) = found["problems"]
    assert record == f"{tmp_path / 'val.rec'}: record 0"
    assert "cannot be decoded" in reason
    assert Records(packed / "val.rec", NAMES).verify() == {"images": 6, "problems": []}


@pytest.mark.parametrize("damage", ["start", "end"])
def test_record_that_is_none_is_left_out(tmp_path, packed, damage):
    content = (packed / "val.rec").read_bytes()
    content = bytes(4) + content[4:] if damage == "start" else content[:-40]
    records = rewritten(packed, tmp_path, rec=content)
    assert len(records) == 5
    ((record, _),) = records.problems
    assert record.endswith("record 0" if damage == "start" else "record 5")


def test_mostly_broken_records_are_refused(tmp_path, packed):
    content = (packed / "val.rec").read_bytes()
    with pytest.raises(ValueError, match=r"val\.rec: only [0-2] of 6"):
        rewritten(packed, tmp_path, rec=content[:1] + bytes(len(content) - 1))


def test_large_image_in_a_record_is_not_decoded(packed, monkeypatch):
    records = Records(packed / "val.rec", NAMES)
    monkeypatch.setenv(PIXEL_LIMIT, "1000")
    with pytest.raises(ValueError, match="52 x 40"):
        records[0]
