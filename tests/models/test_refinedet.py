"""RefineDetLite: anchors, targets and losses of both steps, and its way through."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet import autograd, gluon, nd

import gluon_compress as gc
from gluon_compress import models
from gluon_compress.boxes import (
    corner_from_center,
    decode_deltas,
    encode_deltas,
    iou,
)
from gluon_compress.distill.refinedet import deltas_of_both
from gluon_compress.graph import block_of
from gluon_compress.models import family_of
from gluon_compress.models.refinedet import RefineDetConfig
from gluon_compress.models.res2netlite import res2netlite

CLASSES, SIZE = ("cat", "dog"), (64, 96)
NAME = "refinedetlite_320_mobilenet0.25"
TINY = {"size": SIZE, "channels": 16, "extras": (8, 8)}
LABELS = [
    np.float32([[10, 8, 50, 44, 1, 0], [60, 20, 90, 60, 0, 0]]),
    np.zeros((0, 6), np.float32),
]


@pytest.fixture(scope="module")
def net():
    return gc.build(NAME, CLASSES, seed=1, **TINY)


@pytest.fixture(scope="module")
def images():
    return nd.array(np.random.RandomState(0).randn(2, 3, *SIZE))


@pytest.fixture(scope="module")
def outputs(net, images):
    block = family_of(net).training_net(net)
    return {name: array.asnumpy() for name, array in block(images).items()}


@pytest.fixture(scope="module")
def small(net):
    return gc.slim(net, half(net))


def half(net) -> gc.Plan:
    return gc.delete(models.graph_of(net), {"*": 0.5}, "l1", multiple=1)


def alike(own, other, share: float = 1e-5) -> None:
    for a, b in zip(own, other):
        a, b = a.asnumpy(), b.asnumpy()
        assert abs(a - b).max() <= share * abs(b).max()


def test_anchors_divide_the_input_evenly(net):
    anchors = family_of(net).anchors(net)
    sides = [(4, 6), (2, 3), (1, 2), (1, 1)]
    assert len(anchors) == 3 * sum(rows * columns for rows, columns in sides)
    np.testing.assert_allclose(anchors[:3, :2], np.full((3, 2), 8))
    roots = np.sqrt([1, 2, 0.5])
    np.testing.assert_allclose(anchors[:3, 2], 32 * roots, rtol=1e-6)
    np.testing.assert_allclose(anchors[:3, 3], 32 / roots, rtol=1e-6)
    np.testing.assert_allclose(anchors[-1, :2], [48, 32])


def of_step(label, corners, threshold=0.5):
    """Return class and box targets by the words of the papers, pair by pair."""
    overlaps = iou(label[:, :4].astype(np.float64), corners.astype(np.float64))
    owner = np.where(overlaps.max(axis=0) >= threshold, overlaps.argmax(axis=0), -1)
    free = overlaps.copy()
    for _ in label:  # the best pairs first
        row, column = np.unravel_index(free.argmax(), free.shape)
        owner[column] = row
        free[row], free[:, column] = -1, -1
    classes = np.where(owner >= 0, label[owner, 4] + 1, 0)
    deltas = encode_deltas(label[owner, :4], corners)
    return classes, np.where(owner[:, None] >= 0, deltas, 0)


def entropies(logits, ids):
    shares = np.exp(logits.astype(np.float64))
    return -np.log(shares[np.arange(len(ids)), ids] / shares.sum(axis=1))


def multi_box(scores, deltas, classes, boxes):
    """Return both sums of one image, and its positives."""
    entropy = entropies(scores, np.maximum(classes, 0).astype(int))
    positive = classes > 0
    hardest = np.sort(entropy[classes == 0])[::-1][: 3 * positive.sum()]
    off = np.abs(deltas - boxes)
    smooth = np.where(off < 1, off**2 / 2, off - 0.5).sum(axis=1)
    sums = entropy[positive].sum() + hardest.sum(), smooth[positive].sum()
    return (*sums, positive.sum())


def test_the_loss_is_the_sum_of_both_steps(net, outputs):
    family = family_of(net)
    anchors = family.anchors(net)
    outputs = {name: array.copy() for name, array in outputs.items()}
    outputs["objectness"][0, ::7, 0] += 9  # taken for background: ignored
    targets = [nd.array(t) for t in family.targets(net)(LABELS)]
    given = {name: nd.array(array) for name, array in outputs.items()}
    loss, parts = family.loss(net)(given, [None, *targets])
    label, (score, move, second, delta) = LABELS[0], (v[0] for v in outputs.values())
    classes, boxes = of_step(label, corner_from_center(anchors))
    first = multi_box(score, move, np.minimum(classes, 1), boxes)
    moved = decode_deltas(move, anchors)
    classes, boxes = of_step(label, corner_from_center(moved))
    shares = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    assert 0 < (shares[:, 0] > 0.99).sum() < len(shares)
    classes = np.where(shares[:, 0] > 0.99, -1, classes)
    last = multi_box(second, delta, classes, boxes)
    expected = [*(x / first[2] for x in first[:2]), *(x / last[2] for x in last[:2])]
    found = [part.asscalar() for part in parts.values()]
    assert list(parts) == ["object", "refinement", "class", "box"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert loss.asscalar() == pytest.approx(sum(expected), rel=1e-4)


def test_images_without_objects_have_no_loss(net, outputs):
    family = family_of(net)
    targets = [nd.array(t) for t in family.targets(net)([LABELS[1]] * 2)]
    given = {name: nd.array(array) for name, array in outputs.items()}
    assert family.loss(net)(given, [None, *targets])[0].asscalar() == 0


def test_detections_are_decoded_in_two_steps(net, outputs):
    postprocess = family_of(net).postprocess(net)
    outputs = {name: array.copy() for name, array in outputs.items()}
    outputs["objectness"][:, :, 0] += 20  # but for one anchor, all is background
    outputs["objectness"][0, 30] = 0
    outputs["class_scores"][0, 30] = [0, 0, 3]
    ids, scores, boxes = postprocess.decode(outputs)
    moved = decode_deltas(outputs["refinements"][0, 30:31], postprocess.anchors[30:31])
    final = decode_deltas(outputs["box_deltas"][0, 30:31], moved)
    assert ids[0, :3, 0].tolist() == [1, 0, -1]
    np.testing.assert_allclose(boxes[0, 0], corner_from_center(final)[0], rtol=1e-5)
    assert scores[0, 0, 0] == pytest.approx(np.exp(3) / (2 + np.exp(3)), rel=1e-5)
    assert (ids[1] == -1).all()


def test_a_detection_at_the_limit_of_objectness_may_be_missing(net, outputs):
    """Rounding decides whether the second step looks at its anchor."""
    postprocess = family_of(net).postprocess(net)
    outputs = {name: array[:1].copy() for name, array in outputs.items()}
    outputs["objectness"][0] = [30, 0]
    outputs["class_scores"][0, 30] = [0, 0, 5]
    settings = {"tolerance": 1e-4, "side": 96}
    for above, missing in ((1e-4, 0), (1, 1)):
        outputs["objectness"][0, 30] = [np.log(99) - above, 0]
        found = postprocess.decode(outputs)
        assert found[0][0, 0, 0] == 1
        nothing = [np.full_like(part, -1) for part in found]
        for pair in ((found, nothing), (nothing, found)):
            _, problem = postprocess.compare(outputs, *pair, **settings)
            assert bool(problem) == bool(missing)
        assert postprocess.compare(outputs, found, found, **settings)[1] == ""


def test_the_graph_with_nms_finds_what_the_postprocess_does(net, images):
    family = family_of(net)
    symbol, params = family.results_graph(net)
    whole = [a.asnumpy() for a in block_of(symbol, params)(images)]
    expected = family.results(net, images)
    kept = {n: a.asnumpy() for n, a in zip(family.output_names, net(images))}
    problem = family.postprocess(net).compare(
        kept, whole, expected, tolerance=1e-4, side=96
    )
    assert problem[1] == ""
    assert (expected[0] >= 0).sum() == (whole[0] >= 0).sum() > 20


def test_masks_slim_nets_and_folders_agree(net, small, images, tmp_path):
    alike(gc.mask(net, half(net))(images), small(images))
    assert models.cost_of(small)["macs"] < 0.5 * models.cost_of(net)["macs"]
    models.save(small, tmp_path / "model", "small")
    loaded = models.load(tmp_path / "model")
    alike(loaded(images), small(images), 1e-4)
    family = family_of(small)
    configs = [vars(family.config_of(one)) for one in (loaded, small)]
    for name in ("extras", "channels"):  # these are in the symbol
        assert all(config.pop(name) for config in configs[1:])
        configs[0].pop(name)
    assert configs[0] == configs[1]
    symbol = family.to_symbol(small)
    inside = family.trunk_parameters(symbol)
    assert inside == {n for n in symbol.list_inputs() if n.startswith("mobilenet")}


def test_other_classes_leave_boxes_as_they_were(net, small, images):
    quantised = gc.quantize(net, batches=[images])
    for net in (small, quantised):
        more = models.with_classes(net, ["a", "b", "c", "d"], seed=3)
        assert family_of(more).classes_of(more) == tuple("abcd")
        new, old = more(images), net(images)
        assert new[2].shape == (*old[2].shape[:2], 5)
        alike([new[0], new[1], new[3]], [old[0], old[1], old[3]], 1e-4)


def test_a_student_learns_from_a_teacher(net, small, images):
    family = family_of(net)
    family.check_teacher(small, net)
    taps = family.map_names(net)
    assert taps == ("map0", "map1", "map2", "map3")
    block = family.training_net(small, taps, adapters=family.map_widths(net))
    weights = {**family.default_losses, "imitation": 1.0, "hints": 1.0}
    context = family.loss_context(net, taps)
    teacher = family.training_net(net, taps)
    step = gc.distil_step(teacher, taps, family.loss(small), weights=weights, **context)
    batch = [images, *(nd.array(t) for t in family.targets(small)(LABELS))]
    trainer = gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": 1e-4})
    with autograd.record():
        loss, parts = step(block, batch)
    loss.backward()
    trainer.step(1)
    assert set(weights) < set(parts)
    assert len(parts) == len(weights) + 4
    assert all(np.isfinite(part.asscalar()) for part in parts.values())
    same = gc.distil_step(teacher, taps, family.loss(net), weights=weights, **context)
    _, parts = same(teacher, batch)
    assert all(abs(parts[name].asscalar()) < 1e-5 for name in weights)


def test_boxes_of_both_steps_are_distilled_from_the_anchors(outputs, net):
    anchors = family_of(net).anchors(net)
    given = {name: nd.array(array) for name, array in outputs.items()}
    both = deltas_of_both(given, (0.1, 0.1, 0.2, 0.2)).asnumpy()[0]
    moved = decode_deltas(outputs["refinements"][0], anchors)
    final = decode_deltas(outputs["box_deltas"][0], moved)
    np.testing.assert_allclose(decode_deltas(both, anchors), final, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 300}, "size is 300; allowed: multiples of 32"),
        ({"size": (64, 90)}, "size is .*multiples of 32"),
        ({"sizes": (32, 64)}, "sizes: 2 numbers for 4 lists of ratios"),
        ({"extras": (8,) * 4}, "extras: 4 stages for 4 maps"),
        ({"extras": ()}, "extras: 0 stages for 4 maps; the backbone has 3 taps"),
        ({"channels": 1}, "channels is 1; allowed: from 2"),
        ({"steps": (8,)}, "model option 'steps'; allowed: "),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        models.build(NAME, CLASSES, **settings)


def test_a_teacher_of_other_anchors_is_refused(net):
    other = gc.build(NAME, CLASSES, **TINY, sizes=(20, 40, 80, 90))
    with pytest.raises(ValueError, match="anchors: sizes of the teacher"):
        family_of(net).check_teacher(net, other)


def test_the_default_stands_on_a_trunk_that_gluoncv_does_not_have():
    family = models.family_that_builds("refinedetlite_320")
    assert family.backbone_of("refinedetlite_320") is None
    assert family.backbone_of(NAME) == "mobilenet0.25"
    assert RefineDetConfig(CLASSES).size == (320, 320)


@pytest.mark.parametrize(
    ("name", "macs"), [("res2netlite72", 0.56), ("res2netlite72_wide", 2.6)]
)
def test_trunks_cost_what_their_readings_state(name, macs):
    graph = gc.trace(res2netlite(name, 1000), shape=(1, 3, 224, 224))
    assert gc.count(graph).macs / 1e9 == pytest.approx(macs, rel=0.01)
