from __future__ import annotations

import threading
from functools import partial

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator

from gluon_compress.boxes import iou
from gluon_compress.data import VOCLayout
from gluon_compress.data.batches import Batches, pad_labels
from gluon_compress.data.detection_transforms import (
    detection_train_sample,
    detection_val_sample,
)
from gluon_compress.data.normalization import normalize
from gluon_compress.models.matching import match
from gluon_compress.models.ssd.training import SSDTargets


class Numbers:
    """A set whose images and labels are all their own index."""

    classes = ("thing",)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        return np.full((4, 4, 3), index, np.uint8), index


def plain(image, label, *, rng):
    return image, label


def noisy(image, label, *, rng):
    return image, label + rng.random()


def members(batches, epoch=0, start=0) -> list[list[int]]:
    """Return the class ids of each batch: the indices of its samples."""
    made = batches.epoch(epoch, start)
    return [[int(i) for i in labels.asnumpy()] for _, labels in made]


@pytest.mark.parametrize(
    ("last", "sizes"), [("keep", [4, 4, 2]), ("discard", [4, 4]), ("fill", [4, 4, 4])]
)
def test_last_batch(last, sizes):
    batches = Batches(Numbers(10), plain, 4, last=last)
    assert len(batches) == len(sizes)
    assert [len(batch) for batch in members(batches)] == sizes


def test_filled_batch_begins_the_epoch_again():
    (first, *_, last) = members(Batches(Numbers(10), plain, 4, last="fill"))
    assert last[2:] == first[:2]


def test_few_samples_fill_a_large_batch():
    (batch,) = members(Batches(Numbers(3), plain, 8, last="fill"))
    assert sorted(set(batch)) == [0, 1, 2]
    assert len(batch) == 8


def test_epoch_holds_every_sample_once():
    batches = Batches(Numbers(10), plain, 4)
    assert sorted(sum(members(batches, 3), [])) == list(range(10))


def test_order_depends_on_seed_and_epoch():
    orders = [members(Batches(Numbers(30), plain, 4, seed=s), e) for s, e in SEEDS]
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]


SEEDS = [(1, 0), (1, 0), (1, 1), (2, 0)]


def test_order_is_kept_without_shuffle():
    batches = Batches(Numbers(5), plain, 2, shuffle=False)
    assert members(batches, 7) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("start", [1, 3, 5])
def test_epoch_from_a_batch_on_is_the_rest_of_it(start):
    batches = Batches(Numbers(18), noisy, 4, seed=5)
    whole = [labels.asnumpy() for _, labels in batches.epoch(2)]
    rest = [labels.asnumpy() for _, labels in batches.epoch(2, start)]
    assert len(rest) == len(whole) - start
    for a, b in zip(whole[start:], rest):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_nothing(workers):
    alone = Batches(Numbers(18), noisy, 4, workers=0).epoch(1)
    several = Batches(Numbers(18), noisy, 4, workers=workers).epoch(1)
    for a, b in zip(alone, several):
        np.testing.assert_array_equal(a[1].asnumpy(), b[1].asnumpy())


def test_chance_of_a_sample_is_its_own():
    # Whatever else is in its batch.
    by_index = []
    for size in (4, 9):
        made = Batches(Numbers(18), noisy, size).epoch(0)
        by_index.append(np.sort(np.concatenate([b[1].asnumpy() for b in made])))
    np.testing.assert_array_equal(*by_index)


def test_batch_is_normalized_float32():
    images, labels = next(Batches(Numbers(3), plain, 3, shuffle=False).epoch(0))
    expected = normalize(np.stack([Numbers(3)[i][0] for i in range(3)]))
    np.testing.assert_array_equal(images.asnumpy(), expected)
    assert images.dtype == labels.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; allowed: from 1"),
        ({"batch_size": 4, "seed": -1}, "seed is -1; allowed: from 0"),
        ({"batch_size": 4, "workers": -1}, "workers is -1; allowed: from 0"),
        ({"batch_size": 4, "last": "drop"}, "'drop'; allowed: keep, discard, fill"),
        ({"batch_size": 4, "last": "discard"}, "3 images make no batch of 4"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(Numbers(3), plain, **options)


# ---------------------------------------------------------------- threads


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("batches")]


def test_error_of_a_worker_arrives_with_its_message():
    def fails(image, label, *, rng):
        if label == 5:
            raise ValueError("sample 5 is bad")
        return image, label

    batches = Batches(Numbers(12), fails, 2, shuffle=False, workers=2)
    made = batches.epoch(0)
    assert [len(next(made)[0]) for _ in range(2)] == [2, 2]
    with pytest.raises(ValueError, match="sample 5 is bad"):
        next(made)
    assert threads() == []


def test_epoch_left_early_leaves_no_threads():
    made = Batches(Numbers(40), plain, 2, workers=2).epoch(0)
    next(made)
    assert threads() != []
    made.close()
    assert threads() == []


def test_workers_do_not_run_far_ahead():
    seen = []

    def watched(image, label, *, rng):
        seen.append(label)
        return image, label

    made = Batches(Numbers(400), watched, 2, workers=1).epoch(0)
    next(made)
    made.close()
    assert len(seen) <= 2 * 4


# ---------------------------------------------------------------- labels


def test_labels_are_padded_with_minus_one():
    label = np.arange(12, dtype=np.float32).reshape(2, 6)
    (out,) = pad_labels([label, np.zeros((0, 6), np.float32)])
    assert out.shape == (2, 2, 6)
    np.testing.assert_array_equal(out[0], label)
    assert (out[1] == -1).all()


def test_labels_without_any_object_have_one_row():
    (out,) = pad_labels([np.zeros((0, 6), np.float32)])
    np.testing.assert_array_equal(out, np.full((1, 1, 6), -1))


def anchor_grid() -> mx.nd.NDArray:
    """Return anchors of three sizes and shapes on two grids over 96 pixels."""
    rows = []
    for step, sizes in ((8, (12, 20)), (24, (40, 70))):
        for y in np.arange(step / 2, 96, step):
            for x in np.arange(step / 2, 96, step):
                for size in sizes:
                    for ratio in (1, 2, 0.5):
                        root = ratio**0.5
                        rows.append([x, y, size * root, size / root])
    return mx.nd.array([rows])


def gluoncv_targets(anchors, label) -> list[np.ndarray]:
    generate = SSDTargetGenerator(
        iou_thresh=0.5, stds=(0.1, 0.1, 0.2, 0.2), negative_mining_ratio=-1
    )
    boxes, ids = mx.nd.array(label[None, :, :4]), mx.nd.array(label[None, :, 4:5])
    return [t.asnumpy()[0] for t in generate(anchors, None, boxes, ids)[:2]]


def random_label(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    corner = rng.uniform(0, 80, (count, 2))
    if seed % 2:
        corner = np.rint(corner)  # whole pixels make many equal overlaps
    boxes = np.hstack([corner, corner + np.rint(rng.uniform(3, 50, (count, 2)))])
    ids = rng.integers(0, 7, (count, 1))
    return np.hstack([boxes, ids, np.zeros((count, 1))]).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_targets_are_those_of_gluoncv(seed):
    anchors, label = anchor_grid(), random_label(seed)
    ((classes,), (deltas,)) = SSDTargets(anchors)([label])
    expected = gluoncv_targets(anchors, label)
    np.testing.assert_array_equal(classes, expected[0])
    np.testing.assert_allclose(deltas, expected[1], atol=1e-5)


def test_crowded_boxes_share_the_anchors_as_in_gluoncv():
    # Six times the same box: each takes another anchor, in a fixed order.
    anchors = anchor_grid()
    label = np.tile(np.float32([[20, 20, 32, 32, 0, 0]]), (6, 1))
    label[:, 4] = np.arange(6)
    ((classes,), _) = SSDTargets(anchors)([label])
    np.testing.assert_array_equal(classes, gluoncv_targets(anchors, label)[0])
    assert set(classes[classes > 0]) == {1, 2, 3, 4, 5, 6}


def test_targets_of_a_batch_are_those_of_its_images():
    targets = SSDTargets(anchor_grid())
    labels = [random_label(0), np.zeros((0, 6), np.float32), random_label(1)]
    together = targets(labels)
    for index, label in enumerate(labels):
        for all_of_them, (alone,) in zip(together, targets([label])):
            np.testing.assert_array_equal(all_of_them[index], alone)


def test_image_without_objects_is_all_background():
    classes, deltas = SSDTargets(anchor_grid())([np.zeros((0, 6), np.float32)])
    assert not classes.any()
    assert not deltas.any()


def test_delta_by_formula():
    anchors = mx.nd.array([[[10, 20, 8, 4]]])
    label = np.float32([[8, 18, 16, 26, 2, 0]])  # centre (12, 22), 8 by 8
    classes, deltas = SSDTargets(anchors, stds=(0.1, 0.2, 0.4, 0.5))([label])
    assert classes[0, 0] == 3
    expected = [2 / 8 / 0.1, 2 / 4 / 0.2, 0, np.log(2) / 0.5]
    np.testing.assert_allclose(deltas[0, 0], expected, rtol=1e-6)


def match_by_thresholds_alone(overlaps: np.ndarray, iou: float) -> np.ndarray:
    """Return matches by the same rule, which an overlap of 0 may satisfy too."""
    nearest, most = overlaps.argmax(axis=0), overlaps.max(axis=0)
    enough = (most >= iou) | (most >= overlaps.max(axis=1)[nearest])
    matches, left = np.where(enough, nearest, -1), overlaps.copy()
    for _ in range(min(overlaps.shape)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        if left[row, column] <= 1e-12:
            break
        matches[column] = row
        left[row], left[:, column] = -1, -1
    return matches


@pytest.mark.parametrize("seed", range(60))
def test_objects_with_an_area_are_matched_by_thresholds_alone(seed):
    overlaps = iou(random_label(seed)[:, :4], SSDTargets(anchor_grid()).corner_anchors)
    assert (overlaps.max(axis=1) > 0).all()
    expected = match_by_thresholds_alone(overlaps, 0.5)
    np.testing.assert_array_equal(match(overlaps, 0.5), expected)


def test_object_without_an_area_belongs_to_no_anchor():
    label = random_label(3)
    flat = np.float32([[30, 20, 30, 70, 5, 0]])
    without = SSDTargets(anchor_grid())([label])
    for labels in (np.vstack([flat, label]), np.vstack([label, flat])):
        for found, expected in zip(SSDTargets(anchor_grid())([labels]), without):
            np.testing.assert_array_equal(found, expected)
    classes, deltas = SSDTargets(anchor_grid())([flat])
    assert not classes.any()
    assert not deltas.any()


def test_every_object_gets_an_anchor_however_little_it_overlaps():
    overlaps = np.float32([[0.1, 0.9, 0.6, 0.0], [0.2, 0.05, 0.3, 0.0]])
    np.testing.assert_array_equal(match(overlaps, 0.5), [-1, 0, 1, -1])


def test_the_first_of_equal_overlaps_goes_to_the_first_object():
    overlaps = np.full((3, 5), 0.25, np.float32)
    overlaps[:, 2] = 0.5
    np.testing.assert_array_equal(match(overlaps, 0.9), [1, 2, 0, -1, -1])


def test_more_objects_than_anchors_take_all_anchors():
    overlaps = np.linspace(0.1, 0.4, 12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(match(overlaps, 0.9), [1, 2, 3])


def test_crowded_objects_are_matched_without_looking_at_all_pairs_again():
    # Each of many like objects loses its best anchor to another, again and again.
    overlaps = np.zeros((1000, 5000), np.float32)
    overlaps[:, :40] = np.linspace(0.4, 0.1, 40, dtype=np.float32)
    matches = match(overlaps, 0.5)
    np.testing.assert_array_equal(matches[:40], np.arange(40))
    assert (matches[40:] == -1).all()


@pytest.mark.data
def test_training_batches_of_real_images(shared_data):
    data = VOCLayout(shared_data / "bccd", "val")
    sample = partial(detection_train_sample, size=96)
    targets = SSDTargets(anchor_grid())
    batches = Batches(data, sample, 4, targets=targets)
    images, classes, deltas = next(batches.epoch(0))
    anchors = anchor_grid().shape[1]
    assert images.shape == (4, 3, 96, 96)
    assert classes.shape == (4, anchors)
    assert deltas.shape == (4, anchors, 4)
    assert set(np.unique(classes.asnumpy())) <= {0, 1, 2, 3}


@pytest.mark.data
def test_validation_batches_of_real_images(shared_data):
    data = VOCLayout(shared_data / "bccd", "val")
    sample = partial(detection_val_sample, size=96)
    images, labels = next(Batches(data, sample, 4, shuffle=False).epoch(0))
    most = max(len(data.label(i)) for i in range(4))
    assert images.shape == (4, 3, 96, 96)
    assert labels.shape == (4, most, 6)
