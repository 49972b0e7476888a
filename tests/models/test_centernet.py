"""Detectors without anchors: targets, losses, peaks, and their family."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from gluoncv.loss import HeatmapFocalLoss, MaskedL1Loss
from gluoncv.model_zoo.center_net import center_net_resnet18_v1b_voc
from gluoncv.model_zoo.center_net.target_generator import CenterNetTargetGenerator
from mxnet import autograd, gluon, nd

import gluon_compress as gc
from center_net import small_detector
from gluon_compress import data, models
from gluon_compress.distill import center_box_loss, heat_map_loss
from gluon_compress.graph import block_of, pair_of
from gluon_compress.models import family_of
from gluon_compress.models.centernet.training import (
    CenterNetTargets,
    center_loss,
    focal_loss,
)
from images import few_toys

CLASSES, SIZE = ("cat", "dog", "cow"), (64, 96)
CELLS = (SIZE[0] // 4, SIZE[1] // 4)
LABELS = [
    np.float32([[10, 6, 50, 40, 0, 0], [70, 5, 90, 60, 2, 0], [1, 1, 1, 9, 1, 0]]),
    np.float32([[60, 40, 95, 63, 1, 0]]),
]


def noise(*shape: int, seed: int = 0) -> nd.NDArray:
    return nd.array(np.random.RandomState(seed).randn(*shape))


@pytest.fixture(scope="module")
def net():
    """Return a small detector whose BatchNorm does something."""
    net = gc.build("codenet_b", CLASSES, size=SIZE, width=0.2, seed=1, peaks=20)
    random = np.random.RandomState(0)
    for name, parameter in net.collect_params().items():
        if name.endswith(("gamma", "var")):
            value = random.uniform(0.7, 1.3, parameter.shape)
            parameter.set_data(nd.array(value))
    return net


@pytest.fixture(scope="module")
def targets():
    return CenterNetTargets(len(CLASSES), CELLS)(LABELS)


# Targets and losses.


def test_targets_are_those_of_gluoncv(targets):
    """GluonCV's generator takes boxes in cells; the one without an area has none."""
    make = CenterNetTargetGenerator(len(CLASSES), CELLS[1], CELLS[0])
    for i, label in enumerate(LABELS):
        heat, sizes, mask, offsets, _ = (
            each.asnumpy() for each in make(label[:, :4] / 4, label[:, 4])
        )
        np.testing.assert_allclose(targets[0][i], heat, atol=1e-6)
        np.testing.assert_allclose(targets[1][i], [*sizes, *offsets], atol=1e-6)
        np.testing.assert_array_equal(targets[2][i], mask[:1])
    assert targets[2].sum() == 3


def test_a_centre_on_the_last_pixel_lies_in_the_last_cell():
    label = np.float32([[90, 58, 102, 70, 1, 0]])  # around (96, 64)
    heat, boxes, centers = CenterNetTargets(3, CELLS)([label])
    assert centers[0, 0, -1, -1] == heat[0, 1, -1, -1] == 1
    np.testing.assert_allclose(boxes[0, :, -1, -1], [3, 3, 1, 1])


def test_the_loss_is_gluoncvs_where_that_clips_nothing(targets):
    heat, boxes, centers = map(nd.array, targets)
    maps = {
        "heat_map": 2 * noise(*heat.shape),
        "box_sizes": noise(2, 2, *CELLS, seed=1),
        "center_offsets": noise(2, 2, *CELLS, seed=2),
    }
    total, parts = center_loss(maps, [None, heat, boxes, centers])
    share = nd.sigmoid(maps["heat_map"])
    focal = HeatmapFocalLoss(from_logits=True)(share, heat)
    mask = nd.broadcast_axis(centers, axis=1, size=2)
    pairs = (("box_sizes", boxes[:, :2]), ("center_offsets", boxes[:, 2:]))
    apart = [MaskedL1Loss()(maps[name], wanted, mask) for name, wanted in pairs]
    expected = [float(each.asscalar()) for each in (focal, *apart)]
    found = [float(parts[key].asscalar()) for key in ("heat", "size", "offset")]
    assert found == pytest.approx(expected, rel=1e-4)
    weighed = found[0] + 0.1 * found[1] + found[2]
    assert total.asscalar() == pytest.approx(weighed, rel=1e-5)


def test_a_very_wrong_cell_still_has_a_gradient():
    """GluonCV clips the probability, and its gradient there is zero."""
    logits, target = nd.array([[[[-30.0, 30.0]]]]), nd.array([[[[1.0, 0.0]]]])
    logits.attach_grad()
    with autograd.record():
        loss = focal_loss(logits, target)
    loss.backward()
    assert loss.asscalar() == pytest.approx(60, rel=1e-5)
    np.testing.assert_allclose(logits.grad.asnumpy().ravel(), [-1, 1], rtol=1e-5)


def test_distillation_losses_by_their_formulas(targets):
    centers = nd.array(targets[2])
    heat, other = noise(2, 3, *CELLS), noise(2, 3, *CELLS, seed=1)
    own, wanted = (1 / (1 + np.exp(-x.asnumpy())) for x in (heat, other))
    divergence = wanted * np.log(wanted / own)
    divergence += (1 - wanted) * np.log((1 - wanted) / (1 - own))
    expected = ((own - wanted) ** 2 * divergence).sum() / 3
    found = heat_map_loss(heat, other, centers).asscalar()
    assert found == pytest.approx(expected, rel=1e-4)
    assert heat_map_loss(other, other, centers).asscalar() == 0
    boxes, others = noise(2, 4, *CELLS, seed=2), noise(2, 4, *CELLS, seed=3)
    weight = wanted.max(axis=1, keepdims=True)
    apart = abs((boxes - others).asnumpy())
    expected = (weight * apart).sum() / (4 * weight.sum())
    found = center_box_loss(boxes, others, other, centers).asscalar()
    assert found == pytest.approx(expected, rel=1e-4)


# The family.


def test_a_step_moves_the_net_and_gives_all_parts(net):
    family = family_of(net)
    taps = family.map_names(net)
    widths = family.map_widths(net)
    assert (taps, len(widths)) == (("map0", "map1", "map2", "map3"), 4)
    student = gc.slim(net, gc.delete(models.graph_of(net), {"*": 0.5}, multiple=1))
    teacher = family.training_net(net, taps, stride=2)
    ours = family.training_net(student, taps, adapters=widths, stride=2)
    weights = {"heat_map": 1.0, "box_sizes": 0.1, "hints": 1.0}
    step = gc.distil_step(teacher, taps, family.loss(student), weights=weights)
    batch = [noise(2, 3, *SIZE), *map(nd.array, family.targets(student)(LABELS))]
    trainer = gluon.Trainer(ours.collect_params(), "adam", {"learning_rate": 1e-3})
    losses = []
    for _ in range(3):
        with autograd.record():
            loss, parts = step(ours, batch)
        loss.backward()
        trainer.step(1)
        losses.append(float(loss.asscalar()))
    assert losses[2] < losses[0]
    assert {"heat_map", "box_sizes", "hints"} < set(parts)
    assert all(np.isfinite(part.asscalar()) for part in parts.values())


def test_the_smallest_codenet_learns_from_toy_images(tmp_path):
    """A few steps on one batch: the loss falls, and decoding gives boxes."""
    few_toys(tmp_path, 32, train=8, test=1)
    images = data.VOCLayout(tmp_path, "train")
    net = gc.build("codenet_a", images.classes, size=32, width=0.1, seed=3)
    family = family_of(net)
    batches = data.Batches(
        images,
        partial(data.detection_train_sample, size=family.preprocess(net)),
        4,
        seed=0,
        targets=family.targets(net),
        normalized=family.preprocess(net).inputs,
    )
    block, losses = family.training_net(net), []
    trainer = gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 5e-3})
    step = models.supervised_step(family.loss(net))
    batch = next(iter(batches.epoch(0)))
    for _ in range(16):
        with autograd.record():
            loss, _ = step(block, batch)
        loss.backward()
        trainer.step(1)
        losses.append(float(loss.asscalar()))
    assert losses[-1] < 0.6 * losses[0]
    ids, scores, boxes = family.results(net, noise(1, 3, 32, 32))
    assert np.isfinite(boxes).all()


def test_mask_equals_slim_and_comes_back_from_its_folder(net, tmp_path):
    plan = gc.delete(models.graph_of(net), {"*": 0.5}, "l1", multiple=1)
    small, masked = gc.slim(net, plan), gc.mask(net, plan)
    assert models.cost_of(small)["macs"] < 0.6 * models.cost_of(net)["macs"]
    images = noise(2, 3, *SIZE)
    for own, other in zip(masked(images), small(images)):
        scale = float(abs(own).max().asscalar())
        assert float(abs(own - other).max().asscalar()) <= 1e-5 * scale
    manifest = models.save(small, tmp_path / "model", "small")
    assert manifest["size"] == list(SIZE)
    loaded = models.load(tmp_path / "model")
    assert family_of(loaded).config_of(loaded) == family_of(net).config_of(net)
    for own, other in zip(small(images), loaded(images)):
        np.testing.assert_array_equal(own.asnumpy(), other.asnumpy())


def test_other_classes_get_a_heat_map_of_their_own(net):
    other = models.with_classes(net, ["a", "b"], seed=3)
    images = noise(1, 3, *SIZE)
    heat, sizes, _ = other(images)
    assert heat.shape == (1, 2, *CELLS)
    np.testing.assert_array_equal(sizes.asnumpy(), net(images)[1].asnumpy())
    assert other.classes == ("a", "b")
    names = family_of(net).trunk_parameters(family_of(net).to_symbol(net))
    assert names
    assert all(name.startswith("trunk_") for name in names)


@pytest.mark.parametrize("flip_test", [False, True])
def test_the_graph_with_results_finds_what_the_postprocess_finds(flip_test):
    net = small_detector()
    family, images = family_of(net), noise(2, 3, *models.input_size(net))
    config = replace(family.config_of(net), flip_test=flip_test)
    other = family.from_symbol(*pair_of(net), config)
    symbol, params = family.results_graph(other)
    found = [part.asnumpy() for part in block_of(symbol, params)(images)]
    expected = family.results(other, images)
    assert (expected[0] >= 0).sum() > 20
    maps = dict(zip(family.output_names, (part.asnumpy() for part in other(images))))
    _, problem = family.postprocess(other).compare(
        maps, found, expected, tolerance=1e-6, side=64
    )
    assert problem == ""
    plain = family.results(net, images)
    assert (abs(plain[1] - expected[1]).max() > 0.01) == flip_test


# Structures.


def test_the_net_of_gluoncv_computes_the_same():
    """With GluonCV's values, but for the sigmoid that it puts behind the heat map."""
    theirs = center_net_resnet18_v1b_voc(pretrained_base=False)
    theirs(nd.zeros((1, 3, 64, 64)))  # its parameters have shapes from here on
    symbol, values = pair_of(theirs)
    net = models.build("center_net_resnet18_v1b", size=64)
    own = family_of(net).to_symbol(net)
    names = [
        zip(getattr(own, kind)(), getattr(symbol, kind)())
        for kind in ("list_arguments", "list_auxiliary_states")
    ]
    same = {
        mine: values[other]
        for pairs in names
        for mine, other in pairs
        if other in values
    }
    images = noise(1, 3, 64, 64)
    with autograd.train_mode():  # in which it gives its maps, and does not decode them
        wanted = block_of(symbol, values)(images)
        found = block_of(own, same)(images)
    share = nd.clip(nd.sigmoid(found[0]), 1e-4, 1 - 1e-4)
    for mine, other in zip((share, *found[1:]), wanted):
        np.testing.assert_allclose(
            mine.asnumpy(), other.asnumpy(), rtol=1e-3, atol=1e-4
        )


# MACs in 10^9 and MB of weights in 4 bits, as published for Pascal VOC.
PUBLISHED = {"a": (0.29, 0.76), "c": (1.14, 0.76), "d": (3.54, 2.90), "e": (3.58, 2.90)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_codenets_cost_what_is_published(name):
    """The published MB are MiB of half a byte for each parameter, as figures show."""
    macs, size = PUBLISHED[name]
    cost = models.cost_of(models.build(f"codenet_{name}"))
    # The last digit of a published figure is rounded.
    assert abs(cost["macs"] / 1e9 - macs) <= 0.02 * macs + 0.005
    assert cost["params"] / 2 / 2**20 == pytest.approx(size, abs=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size is 100; allowed: multiples of 32 pixels, from 32"),
        ({"size": (64, 4128)}, r"size is .*4128\)?\]?; allowed: multiples of 32"),
        ({"anchors": 3}, "model option 'anchors'; allowed: bound, flip_test"),
        ({"rung": "round"}, "rung is 'round'; allowed: none, full"),
        ({"bound": 0}, "bound is 0; allowed: a whole number from 1"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=f"^{message}") as refusal:
        models.build("codenet_a", CLASSES, **options)
    assert "\n" not in str(refusal.value)


def test_a_trunk_without_the_stages_is_refused(tmp_path):
    net = models.build("cifar_resnet20_v1", CLASSES, size=32)
    models.save(net, tmp_path / "trunk", "trunk")
    with pytest.raises(ValueError, match="no tensor at stride 32 to tap"):
        models.build("codenet_a", CLASSES, trunk=tmp_path / "trunk")


def test_a_stored_classifier_is_a_trunk(tmp_path):
    net = models.build("mobilenet0.25", CLASSES, size=64, seed=1)
    models.save(net, tmp_path / "trunk", "trunk")
    detector = models.build("codenet_a", CLASSES, trunk=tmp_path / "trunk", size=SIZE)
    assert detector(noise(1, 3, *SIZE))[0].shape == (1, 3, *CELLS)
    name = next(n for n in net.collect_params() if n.endswith("conv0_weight"))
    own, other = (each.collect_params()[name].data() for each in (detector, net))
    np.testing.assert_array_equal(own.asnumpy(), other.asnumpy())
