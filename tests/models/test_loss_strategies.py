"""What recipes may change of a detector's loss, against the formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet import autograd, nd

import gluon_compress as gc
import heat_map
from gluon_compress import models
from gluon_compress.models import family_of
from gluon_compress.models.balance import MOST, balanced
from gluon_compress.models.centernet.training import center_loss
from gluon_compress.models.loss_settings import ClassWeights, LossSettings
from gluon_compress.models.multi_box import multi_box
from gluon_compress.models.rcnn.training import second_losses
from gluon_compress.models.ssd import ssd_loss
from gluon_compress.postprocess.centernet import HEAT, OFFSETS, SIZES
from gluon_compress.recipe import parse_recipe
from gluon_compress.train import Options, fit
from training import SHORT, Fixed

STDS = np.float32([0.1, 0.1, 0.2, 0.2])
COUNTS = (100, 10, 1)


@pytest.fixture(scope="module")
def batch():
    """Return scores, deltas, class and box targets of two images and 40 anchors."""
    random = np.random.RandomState(0)
    classes = np.zeros((2, 40), np.float32)
    classes[0, :9] = [1, 1, 1, 1, 1, 2, 2, 3, 3]
    classes[1, :2] = 1
    scores, deltas, boxes = random.randn(3, 2, 40, 4).astype(np.float32)
    boxes[classes == 0] = 0
    return scores, deltas, classes, boxes


def overlap(delta, target) -> float:
    """Return the IoU of two boxes given by deltas from an anchor of 3 x 5."""
    ends = []
    for x, y, w, h in (delta * STDS, target * STDS):
        width, height = 3 * np.exp(w), 5 * np.exp(h)
        ends.append((3 * x - width / 2, 5 * y - height / 2, width, height))
    (x0, y0, w0, h0), (x1, y1, w1, h1) = ends
    wide = min(x0 + w0, x1 + w1) - max(x0, x1)
    high = min(y0 + h0, y1 + h1) - max(y0, y1)
    common = max(wide, 0) * max(high, 0)
    return common / (w0 * h0 + w1 * h1 - common)


def class_loss(batch, weight_of) -> float:
    """Return SSD's classification loss with a weight for each positive."""
    scores, _, classes, _ = batch
    total = 0.0
    for i in range(len(classes)):
        shares = np.exp(scores[i]) / np.exp(scores[i]).sum(axis=1, keepdims=True)
        positives = np.flatnonzero(classes[i])
        for a in positives:
            total -= weight_of(i, a) * np.log(shares[a, int(classes[i, a])])
        hardest = np.sort(-np.log(shares[classes[i] == 0, 0]))[::-1]
        total += hardest[: 3 * len(positives)].sum()
    return total / (classes > 0).sum()


def weights_by_iou(batch, power):
    _, deltas, classes, boxes = batch
    shares = {
        (i, a): max(overlap(deltas[i, a], boxes[i, a]), 0.1) ** power
        for i, a in np.argwhere(classes > 0)
    }
    return lambda i, a: len(shares) * shares[i, a] / sum(shares.values())


def weights_by_class(batch, rarity, hardness, most):
    scores, _, classes, _ = batch
    missed = {}
    for i, a in np.argwhere(classes > 0):
        powers = np.exp(scores[i, a])
        missed[i, a] = 1 - powers[int(classes[i, a])] / powers.sum()
    every = np.mean(list(missed.values()))

    def weight(i, a):
        number = int(classes[i, a])
        own = np.mean([v for at, v in missed.items() if classes[at] == number])
        rare = (np.mean(COUNTS) / COUNTS[number - 1]) ** rarity
        return np.clip(rare * (own / every) ** hardness, 1 / most, most)

    return weight


def of_package(batch, **options) -> tuple:
    arrays = [nd.array(part) for part in batch]
    outputs = dict(zip(("class_scores", "box_deltas"), arrays))
    return ssd_loss(**options)(outputs, [None, *arrays[2:]])


def test_multi_box_is_gluoncvs_where_nothing_is_ignored(batch):
    loss, parts = of_package(batch)
    own = multi_box(*(nd.array(part) for part in batch))
    for mine, part in zip(own, parts.values()):
        assert mine.asscalar() == pytest.approx(part.asscalar(), rel=1e-5)
    expected = class_loss(batch, lambda i, a: 1)
    assert parts["class"].asscalar() == pytest.approx(expected, rel=1e-4)
    assert loss.asscalar() == pytest.approx(sum(p.asscalar() for p in own), rel=1e-5)


def test_iou_guidance_weighs_objects_by_the_boxes_that_are_predicted(batch):
    _, plain = of_package(batch)
    for power in (1.0, 2.0):
        _, parts = of_package(batch, iou_guided=power)
        expected = class_loss(batch, weights_by_iou(batch, power))
        assert parts["class"].asscalar() == pytest.approx(expected, rel=1e-4)
        box = plain["box"].asscalar()
        assert parts["box"].asscalar() == pytest.approx(box, rel=1e-5)


@pytest.mark.parametrize("formula", [(0.5, 0, 4), (0, 1, 4), (1, 2, 1.5)])
def test_rare_and_hard_classes_count_more(batch, formula):
    names = ("rarity", "hardness", "most")
    settings = ClassWeights(counts=COUNTS, **dict(zip(names, formula)))
    _, parts = of_package(batch, class_weights=settings)
    expected = class_loss(batch, weights_by_class(batch, *formula))
    assert parts["class"].asscalar() == pytest.approx(expected, rel=1e-4)


def test_both_weights_are_multiplied(batch):
    settings = ClassWeights(counts=COUNTS)
    _, parts = of_package(batch, class_weights=settings, iou_guided=1.0)
    one, other = weights_by_iou(batch, 1), weights_by_class(batch, 0.5, 0.5, 4)
    expected = class_loss(batch, lambda i, a: one(i, a) * other(i, a))
    assert parts["class"].asscalar() == pytest.approx(expected, rel=1e-4)


WEIGHTS = ClassWeights(rarity=1, hardness=2, most=3, counts=COUNTS)


@pytest.mark.parametrize("options", [{"iou_guided": 2.0}, {"class_weights": WEIGHTS}])
def test_centres_of_a_heat_map_are_weighed_by_the_same_formulas(options):
    random = np.random.RandomState(2)
    heat = random.uniform(0, 0.9, (2, 3, 5, 6)).astype(np.float32)
    places = [(0, 0, 1, 1), (0, 0, 3, 4), (0, 2, 1, 1), (1, 1, 2, 2), (1, 0, 0, 5)]
    logits = random.randn(2, 3, 5, 6).astype(np.float32)
    boxed, boxes = random.uniform(0.2, 4, (2, 2, 4, 5, 6)).astype(np.float32)
    boxed[0, 0, 3, 4] = -1  # no width
    for at in places:
        heat[at] = 1
    shares = 1 / (1 + np.exp(-logits.astype(float)))
    missed = {at: 1 - shares[at] for at in places}
    overlaps = {}
    for b, c, y, x in places:
        (w, h, dx, dy), (v, g, ex, ey) = boxed[b, :, y, x], boxes[b, :, y, x]
        wide = min(dx + w / 2, ex + v / 2) - max(dx - w / 2, ex - v / 2)
        high = min(dy + h / 2, ey + g / 2) - max(dy - h / 2, ey - g / 2)
        common = max(wide, 0) * max(high, 0)
        overlaps[b, c, y, x] = max(common / (w * h + v * g - common), 0.1) ** 2

    def weight(at):
        if "iou_guided" in options:
            return len(places) * overlaps[at] / sum(overlaps.values())
        own = np.mean([v for one, v in missed.items() if one[1] == at[1]])
        ratio = own / np.mean(list(missed.values()))
        return np.clip(np.mean(COUNTS) / COUNTS[at[1]] * ratio**2, 1 / 3, 3)

    total = -((1 - heat) ** 4 * shares**2 * np.log(1 - shares) * (heat < 1)).sum()
    total -= sum(weight(at) * missed[at] ** 2 * np.log(shares[at]) for at in places)
    centers = (heat == 1).any(axis=1, keepdims=True)
    arrays = [nd.array(each) for each in (heat, boxes, centers)]
    outputs = dict(zip((SIZES, OFFSETS), nd.split(nd.array(boxed), 2)))
    outputs[HEAT] = nd.array(logits)
    parts = [center_loss(outputs, [None, *arrays], **each)[1] for each in (options, {})]
    assert parts[0]["heat"].asscalar() == pytest.approx(total / len(places), rel=1e-4)
    assert parts[0]["size"].asscalar() == parts[1]["size"].asscalar()


@pytest.mark.parametrize("options", [{"iou_guided": 1.5}, {"class_weights": WEIGHTS}])
def test_regions_of_a_second_stage_are_weighed_by_the_same_formulas(options):
    random = np.random.RandomState(3)
    scores = random.randn(9, 4).astype(np.float32)
    deltas = random.randn(9, 12).astype(np.float32)
    shifts = random.randn(9, 4).astype(np.float32)
    classes = np.float32([1, 1, 2, 3, 1, 0, 0, 0, -1])
    own = np.zeros((9, 4), np.float32)
    for i, name in enumerate(classes.astype(int)):
        own[i] = deltas[i, 4 * name - 4 : 4 * name] if name > 0 else 0
    rows = [each[None] for each in (scores, own, np.maximum(classes, 0), shifts)]
    power = options.get("iou_guided")
    weights = weights_by_iou(rows, power) if power else weights_by_class(rows, 1, 2, 3)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    entropy = -np.log(shares[np.arange(9), np.maximum(classes, 0).astype(int)])
    total = sum(entropy[i] * (weights(0, i) if classes[i] > 0 else 1) for i in range(8))
    arrays = [nd.array(each) for each in (scores, deltas, classes, shifts)]
    found, box = second_losses(*arrays, stds=STDS, **options)
    assert found.asscalar() == pytest.approx(total / 8, rel=1e-4)
    assert box.asscalar() == second_losses(*arrays, stds=STDS)[1].asscalar()


@pytest.mark.parametrize(
    "name", ["codenet_a", "faster_rcnn_fpn_resnet18_v1b", "refinedetlite_320"]
)
def test_recipes_may_state_strategies_for_every_family(name):
    model = {"name": name}
    stated = {"iou_guided": 1, "class_weights": {}, "balance": "uncertainty"}
    family = models.family_that_builds(name)
    recipe = {**RECIPE, "model": model, "loss": stated}
    recipe["data"] = {**RECIPE["data"], "size": 320}
    assert set(parse_recipe(recipe).loss.options) == set(family.loss_options)


def test_a_class_without_objects_is_refused():
    with pytest.raises(ValueError, match="class_weights: dog has no object in the"):
        ClassWeights().counted(("cat", "dog"), (3, 0))
    with pytest.raises(ValueError, match="counts has 1 numbers; allowed: 2"):
        ClassWeights(counts=(3,)).counted(("cat", "dog"), (3, 1))


# Balance works on the loss of any net: here on one whose family is from outside.

LABELS = [np.float32([[20, 4, 36, 20, 0, 0]]), np.float32([[2, 10, 14, 30, 1, 0]])]


@pytest.fixture
def heat(monkeypatch):
    heat_map.register(monkeypatch)
    net = gc.build("heat_tiny", ("cat", "dog"), seed=1)
    family = family_of(net)
    images = nd.array(np.random.RandomState(0).randn(2, 3, 32, 48))
    targets = [nd.array(target) for target in family.targets(net)(LABELS)]
    return net, family, [images, *targets]


def test_uncertainty_weighs_parts_by_what_training_finds(heat, tmp_path):
    net, family, batch = heat
    block, loss = family.training_net(net), family.loss(net)
    block, weighed = balanced("uncertainty", family, net, block, loss)
    s = weighed.log_variances
    assert s.name in block.collect_params()
    assert s.name not in net.collect_params()
    outputs = block(batch[0])
    values = np.array([part.asscalar() for part in loss(outputs, batch)[1].values()])
    for logs in (np.zeros(2), np.array([0.5, -1])):
        s.set_data(nd.array(logs))
        with autograd.record():
            total, _ = weighed(outputs, batch)
        total.backward()
        expected = (np.exp(-logs) * values + logs).sum()
        assert total.asscalar() == pytest.approx(expected, rel=1e-4)
        slope = 1 - np.exp(-logs) * values
        np.testing.assert_allclose(s.grad().asnumpy(), slope, rtol=1e-3)
    step, options = models.supervised_step(weighed), Options(progress=False)
    fit(block, Fixed(*batch), step, SHORT, tmp_path, options=options)
    trained = s.data().asnumpy()
    assert (trained != logs).all()
    s.set_data(nd.zeros(2))  # a checkpoint brings it back
    options = Options(progress=False, resume=True)
    fit(block, Fixed(*batch), step, SHORT, tmp_path, options=options)
    np.testing.assert_array_equal(s.data().asnumpy(), trained)


def test_gradient_norms_make_parts_pull_alike(heat):
    net, family, batch = heat
    block, loss = family.training_net(net), family.loss(net)
    same, weighed = balanced("gradient_norm", family, net, block, loss)
    assert same is block
    outputs = {name: array.detach() for name, array in block(batch[0]).items()}
    slopes = {}
    for name in ("center", "size"):
        for array in outputs.values():
            array.attach_grad()
        with autograd.record():
            _, parts = loss(outputs, batch)
        parts[name].backward()
        slopes[name] = {n: array.grad.asnumpy() for n, array in outputs.items()}
    norms = np.sqrt([sum((g**2).sum() for g in s.values()) for s in slopes.values()])
    weights = np.clip(np.sqrt(norms.prod()) / norms, 1 / MOST, MOST)
    for array in outputs.values():
        array.attach_grad()
    with autograd.record():
        total, found = weighed(outputs, batch)
    total.backward()
    values = [part.asscalar() for part in parts.values()]
    assert [part.asscalar() for part in found.values()] == values
    assert total.asscalar() == pytest.approx((weights * values).sum(), rel=1e-4)
    for name, array in outputs.items():
        expected = sum(w * each[name] for w, each in zip(weights, slopes.values()))
        np.testing.assert_allclose(array.grad.asnumpy(), expected, atol=1e-5)


def test_a_loss_without_parts_cannot_be_balanced(heat):
    net, family, _ = heat
    block = family.training_net(net)
    with pytest.raises(ValueError, match=r"balance is 'uncertainty', but .* 0 parts"):
        balanced("uncertainty", family, net, block, lambda *_: (nd.zeros(1), {}))


RECIPE = {
    "paper": "none",
    "command": "pytest",
    "hours": 1,
    "expected": {},
    "task": "detection",
    "model": {"name": "refinedetlite_320_mobilenet0.25"},
    "data": {"kind": "voc", "root": "voc", "train": "a", "test": "b", "size": 320},
    "train": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"iou_guided": 0}, "loss.iou_guided is 0"),
        ({"class_weights": {"most": 0.5}}, "loss.class_weights.most is 0.5"),
        ({"class_weights": {"rare": 1}}, "loss.class_weights.*rare"),
        ({"balance": "hope"}, "loss.balance is 'hope'"),
    ],
)
def test_wrong_settings_are_named(loss, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe({**RECIPE, "loss": loss})


def test_families_that_do_not_know_a_strategy_refuse_it(monkeypatch):
    heat_map.register(monkeypatch)
    stated = {"iou_guided": 1, "balance": "uncertainty"}
    recipe = parse_recipe({**RECIPE, "loss": stated})
    assert recipe.loss == LossSettings(**stated)
    outside = {**RECIPE, "model": {"name": "heat_tiny"}}
    with pytest.raises(ValueError, match="loss.iou_guided.*null for nets .* 'heatmap'"):
        parse_recipe({**outside, "loss": stated})
    del stated["iou_guided"]
    assert parse_recipe({**outside, "loss": stated}).loss.balance == "uncertainty"
