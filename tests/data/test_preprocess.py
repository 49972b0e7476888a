from __future__ import annotations

import json

import cv2
import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from gluon_compress.data import crop_val_sample, detection_val_sample, normalize
from gluon_compress.data.preprocess import Preprocess, as_rgb
from gluon_compress.sizes import size_pair

# Height and width of images, and what resizes them to 30 x 30.
METHODS = {
    (40, 70): cv2.INTER_AREA,
    (20, 13): cv2.INTER_CUBIC,
    (50, 20): cv2.INTER_LINEAR,
    (30, 30): cv2.INTER_LINEAR,
    (30, 60): cv2.INTER_LINEAR,
    (29, 31): cv2.INTER_LINEAR,
}
SHAPES = list(METHODS)


def noise(height: int, width: int) -> np.ndarray:
    random = np.random.RandomState(height)
    return random.randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_detectors_see_the_whole_image_resized(shape):
    image = noise(*shape)
    view = cv2.resize(image, (30, 30), interpolation=METHODS[shape])
    batch, _ = Preprocess(height=30, width=30)(image)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, normalize(view[None]))


@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [
        ((64, 96), (32, 48), (2, 10)),  # 28 / 0.875 is 32
        ((16, 40), (32, 80), (2, 26)),
        ((32, 32), (32, 32), (2, 2)),
    ],
    ids=str,
)
def test_classifiers_see_the_centre(shape, resized, corner):
    image = noise(*shape)
    method = cv2.INTER_AREA if shape[0] > 32 else cv2.INTER_LINEAR
    view = cv2.resize(image, resized[::-1], interpolation=method)
    top, left = corner
    view = view[top : top + 28, left : left + 28]
    batch, placement = Preprocess.centre_crop(28, 28)(image)
    np.testing.assert_array_equal(batch, normalize(view[None]))
    assert (placement.top, placement.left) == corner


@pytest.mark.parametrize("size", [30, (30, 50)], ids=str)
def test_validation_shows_what_a_runtime_is_shown(size):
    image = noise(40, 70)
    height, width = size_pair(size)
    label = np.array([[7, 4, 35, 20, 1, 0]], np.float32)
    view, boxes = detection_val_sample(image, label, size)
    batch, placement = Preprocess(height=height, width=width)(image)
    np.testing.assert_array_equal(batch, normalize(view[None]))
    np.testing.assert_allclose(placement.to_image(boxes[:, :4]), label[:, :4], 1e-6)
    view, _ = crop_val_sample(image, 0, size)
    batch, _ = Preprocess.centre_crop(height, width)(image)
    np.testing.assert_array_equal(batch, normalize(view[None]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"keep_ratio": True}, {"keep_ratio": True, "crop": 0.875}],
    ids=["stretched", "fitted", "cropped"],
)
def test_a_corner_of_the_image_is_found_where_it_is_placed(shape, settings):
    # Left of the middle the image is dark, right of it bright; so it is in the input.
    image = np.zeros((*shape, 3), np.uint8)
    image[:, shape[1] // 2 :] = 255
    plain = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    batch, placement = Preprocess(height=24, width=40, **plain, **settings)(image)
    assert batch.shape == (1, 3, 24, 40)
    box = np.array([[shape[1] // 2, 0, shape[1], shape[0]]], np.float32)
    left = placement.to_input(box)[0, 0]
    edge = np.flatnonzero(batch[0, 0, 0] > 0.5)[0]
    assert abs(edge - left) <= 1
    back = placement.to_image(placement.to_input(box))
    np.testing.assert_allclose(back, box, atol=1e-4)


def test_an_image_that_is_fitted_leaves_the_rest_zero():
    batch, placement = Preprocess(height=20, width=40, keep_ratio=True)(noise(40, 20))
    assert (placement.rows, placement.columns) == (20, 10)
    assert np.abs(batch[..., :10]).max() > 0
    assert (batch[..., 10:] == 0).all()


def test_samples_to_measure_on_lie_where_the_input_shows_them():
    net = Preprocess(height=20, width=40, keep_ratio=True, mean=(0.1, 0.2, 0.3))
    images = [noise(40, 20), noise(10, 20)]
    label = np.array([[4, 8, 12, 10, 2, 1]], np.float32)
    views, labels = zip(*(net.sample(image, label) for image in images))
    np.testing.assert_allclose(labels[0], [[2, 4, 6, 5, 2, 1]])
    np.testing.assert_allclose(labels[1], [[8, 16, 24, 20, 2, 1]])
    expected = np.concatenate([net(image)[0] for image in images])
    np.testing.assert_array_equal(net.inputs(views), expected)
    assert net.sample(images[0], 3)[1] == 3


def test_colour_of_the_rest_becomes_zero():
    net = Preprocess(height=2, width=2, mean=(0.1, 0.5, 1))
    view = np.full((2, 2, 3), net.fill, np.uint8)
    assert np.abs(net.normalized(view[None])).max() < 0.6 / 255 / 0.224


def test_image_too_narrow_to_resize_is_refused():
    image = np.zeros((1, 500_000, 3), np.uint8)
    with pytest.raises(ValueError, match="500000 x 1 "):
        Preprocess.centre_crop(224, 224)(image)
    assert Preprocess(height=20, width=40)(image)[0].shape == (1, 3, 20, 40)


def test_settings_go_to_json_and_back():
    settings = Preprocess.centre_crop(20, 40, mean=(0.1, 0.2, 0.3))
    assert Preprocess(**json.loads(json.dumps(settings.to_json()))) == settings


def test_images_of_other_kinds_are_taken():
    image = noise(8, 9)
    grey = image[..., :1]
    alpha = np.concatenate([image, grey], axis=2)
    for other in (image, alpha, image.astype(np.uint16) * 257):
        np.testing.assert_array_equal(as_rgb(other), image)
    for other in (grey, grey[..., 0]):
        np.testing.assert_array_equal(as_rgb(other), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), object),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        mx.nd.zeros((4000, 4000, 3)),
        [[1, 2], [3, 4]],
        None,
    ],
    ids=["two", "float", "object", "line", "empty", "mxnet", "list", "none"],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="an image .*") as error:
        as_rgb(image)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["P", "CMYK", "HSV", "YCbCr", "LAB", "LA", "1", "PA"])
def test_pils_images_are_taken_by_colour_whatever_their_mode(mode):
    image = Image.fromarray(noise(20, 30)).convert("RGB")
    image = image.convert("P").convert(mode) if mode == "PA" else image.convert(mode)
    np.testing.assert_array_equal(as_rgb(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_pils_images_of_plain_modes_are_their_arrays(mode):
    image = Image.fromarray(noise(20, 30)).convert(mode)
    np.testing.assert_array_equal(as_rgb(image), as_rgb(np.asarray(image)))


def test_pils_images_of_16_bits_and_of_others():
    samples = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    image = Image.fromarray(samples)
    for mode in (image.mode, "I"):
        converted = image if mode == image.mode else image.convert(mode)
        np.testing.assert_array_equal(as_rgb(converted), as_rgb(samples))
    for other in (samples.astype(np.float32), samples.astype(np.int32) * 100):
        with pytest.raises(ValueError, match="allowed: uint8 or uint16"):
            as_rgb(Image.fromarray(other))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 200, (60, 120)),  # the shorter side
        (50, 400, (24, 192)),  # as much as fits
        (300, 90, (96, 29)),
    ],
)
def test_the_shorter_side_is_scaled_to_short_if_it_fits(height, width, expected):
    preprocess = Preprocess(height=96, width=192, keep_ratio=True, short=60)
    view, placement = preprocess.view(np.zeros((height, width, 3), np.uint8))
    assert view.shape[:2] == (placement.rows, placement.columns) == expected


def test_inputs_end_behind_the_largest_view():
    preprocess = Preprocess(height=96, width=192, keep_ratio=True, unit=32)
    views = [np.full(shape, 200, np.uint8) for shape in ((30, 70, 3), (40, 10, 3))]
    batch = preprocess.inputs(views)
    assert batch.shape == (2, 3, 64, 96)
    assert (batch[0, :, :30, :70] > 0).all()
    assert (batch[0, :, 30:] == 0).all()
    assert preprocess.takes(batch.shape)
    assert not preprocess.takes((1, 3, 128, 96))
    assert not preprocess.takes((1, 3, 40, 96))
    whole = preprocess.fixed.inputs(views)
    assert whole.shape == (2, 3, 96, 192)
    assert (whole[:, :, :64, :96] == batch).all()
    assert not preprocess.fixed.takes(batch.shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short": 20}, "short is 20; allowed: null, unless keep_ratio"),
        ({"unit": 32}, "unit is 32; allowed: null, unless keep_ratio"),
        ({"unit": 50, "keep_ratio": True}, "unit is 50; allowed: a divisor"),
        ({"short": 20, "keep_ratio": True, "crop": 0.9}, "short is 20"),
    ],
)
def test_what_needs_a_kept_ratio_is_refused_without(settings, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(height=96, width=192, **settings)
