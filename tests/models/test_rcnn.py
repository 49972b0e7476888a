"""Two-stage detectors: structure, pruning, folders, targets, losses and training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mxnet import autograd, gluon, nd

import gluon_compress as gc
from gluon_compress import models, train
from gluon_compress.boxes import encode_deltas, iou
from gluon_compress.detector import predictor_of
from gluon_compress.models import family_of
from gluon_compress.models.balance import balanced
from gluon_compress.models.rcnn import net as parts
from gluon_compress.models.rcnn.training import ROI_SHARE, draw, smooth_l1
from gluon_compress.train import Options, Schedule
from training import Fixed

CLASSES, SIZE = ("cat", "dog"), (64, 96)
NAME, THIN = "faster_rcnn_fpn_resnet18_v1b", "faster_rcnn_fpn_mobilenet0.25"
TINY = {
    "size": SIZE,
    "sizes": (8, 16, 32, 64, 96),
    "fpn_channels": 64,
    "rpn_channels": 32,
    "head_channels": 64,
    "rpn_pre_nms": 60,
    "rpn_post_nms": 16,
    "post_nms": 10,
    "rpn_samples": 32,
    "roi_samples": 16,
}
LABELS = [
    np.float32([[10, 8, 50, 44, 1, 0], [60, 20, 90, 60, 0, 0]]),
    np.float32([[30, 10, 80, 40, 0, 0]]),
]


@pytest.fixture(scope="module")
def net():
    return gc.build(NAME, CLASSES, width=0.25, seed=1, **TINY)


@pytest.fixture(scope="module")
def images():
    """Return images with a bright plane where an object of its class is."""
    batch = np.zeros((2, 3, *SIZE), np.float32)
    for image, label in zip(batch, LABELS):
        for x0, y0, x1, y1, name in label[:, :5].astype(int):
            image[name, y0:y1, x0:x1] = 2
    return nd.array(batch)


@pytest.fixture(scope="module")
def small(net):
    return gc.slim(net, half(net))


def half(net) -> gc.Plan:
    return gc.delete(models.graph_of(net), {"*": 0.5}, "l1", multiple=1)


def alike(own, other, share: float = 1e-5) -> None:
    for a, b in zip(own, other):
        a, b = a.asnumpy(), b.asnumpy()
        assert abs(a - b).max() <= share * abs(b).max()


def batch_of(net, images) -> list:
    return [images, *(nd.array(t) for t in family_of(net).targets(net)(LABELS))]


# Structure.


def test_groups_are_in_trunk_pyramid_proposals_and_heads(net):
    graph = models.graph_of(net)
    free = {group.name for group in graph.groups if not group.frozen}
    # Sums tie the laterals; the layers that all maps share, and the regions, the maps.
    assert {"rcnn_lateral0", "rcnn_map0", "rcnn_rpn0"} <= free
    assert {"rcnn_dense0", "rcnn_dense1"} <= free
    assert sum(name.startswith("resnet") for name in free) == 12
    frozen = {group.name for group in graph.groups} - free
    assert len(frozen) == 4  # the outputs
    members = graph.group("rcnn_map0").members
    assert len({m for m in members if "rcnn_map" in str(m)}) > 4


def test_masks_slim_nets_and_folders_agree(net, small, images, tmp_path):
    masked = gc.mask(net, half(net))
    alike(masked(images), small(images))
    assert models.cost_of(small)["macs"] < 0.5 * models.cost_of(net)["macs"]
    models.save(small, tmp_path / "model", "small")
    loaded = models.load(tmp_path / "model")
    family = family_of(loaded)
    assert family.config_of(loaded) == family.config_of(small)
    alike(loaded(images), small(images))
    results = [family.results(one, images) for one in (small, loaded)]
    for part, other in zip(*results):
        assert (part == other).all()
    symbol = family.to_symbol(small)
    inside = family.trunk_parameters(symbol)
    assert inside == {n for n in symbol.list_inputs() if n.startswith("resnet")}


def test_the_whole_symbol_costs_what_the_stages_do(net):
    """Its reference regions are as many as an image has proposals."""
    family = family_of(net)
    whole = gc.count(models.graph_of(net)).macs
    symbol, params = family.inference_graph(net)
    first = gc.count(gc.trace((symbol, params), shape=(1, 3, *SIZE))).macs
    stage = family.later_stages(net)["heads"]
    graph = gc.trace((stage.symbol, stage.params), shape=dict(stage.inputs))
    assert whole == first + gc.count(graph).macs


def test_regions_are_read_as_pooled_from_their_map(net):
    """A region over one cell, and none, against the map itself."""
    stage = family_of(net).later_stages(net)["heads"]
    internals = stage.symbol.get_internals()
    pooled = gc.graph.block_of(internals["rcnn_pooled_output"], stage.params)
    maps = {n: np.random.RandomState(1).randn(*s) for n, s in stage.inputs.items()}
    regions = np.zeros((2, 9), np.float32)
    regions[0, 1:6] = 32, 16, 60, 44, 0
    regions[0, 6] = 1  # of the second map
    names = pooled_inputs(pooled)
    maps["regions"] = regions
    result = pooled(*(nd.array(maps[name]) for name in names)).asnumpy()
    assert result.shape[0] == 2
    # A cell is half a pixel of the map wide, and has two points a side.
    x = (32 / 8 + (np.arange(14) + 0.5) * 28 / 8 / 14)[None]
    y = (16 / 8 + (np.arange(14) + 0.5) * 28 / 8 / 14)[:, None]
    grid = sampled(maps["map1"][0], y, x)
    expected = grid.reshape(-1, 7, 2, 7, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(result[0], expected, atol=1e-4)
    assert (result[1] == 0).all()


def pooled_inputs(block) -> list:
    return [symbol.name for symbol in block._cached_graph[0]]


def sampled(planes, y, x) -> np.ndarray:
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - top, x - left
    rows = np.minimum(top + 1, planes.shape[1] - 1)
    columns = np.minimum(left + 1, planes.shape[2] - 1)
    return (
        planes[:, top, left] * (1 - down) * (1 - right)
        + planes[:, top, columns] * (1 - down) * right
        + planes[:, rows, left] * down * (1 - right)
        + planes[:, rows, columns] * down * right
    )


def test_images_of_a_batch_are_looked_at_alone(net, images):
    family = family_of(net)
    both = family.results(net, images)
    for i in range(2):
        alone = family.results(net, images[i : i + 1])
        for part, own in zip(both, alone):
            np.testing.assert_allclose(part[i], own[0], rtol=1e-4, atol=1e-4)


def test_other_classes_leave_the_first_stage_as_it_was(net, small, images):
    quantised = gc.quantize(net, batches=[images])
    for one in (small, quantised):
        more = models.with_classes(one, ["a", "b", "c", "d"], seed=3)
        assert family_of(more).classes_of(more) == tuple("abcd")
        new, old = more(images), one(images)
        assert [part.shape[1] for part in new[2:]] == [5, 16]
        alike(new[:2], old[:2], 1e-4)
        assert len(family_of(more).results(more, images)) == 3


# Inputs of any size.


def test_images_keep_their_ratio_and_inputs_end_behind_them():
    net = models.build(THIN, CLASSES, **{**TINY, "size": 128, "short": 48})
    preprocess = family_of(net).preprocess(net)
    wide, placement = preprocess(np.zeros((100, 150, 3), np.uint8))
    assert wide.shape == (1, 3, 64, 96)  # 48 x 72 pixels of image
    assert (placement.rows, placement.columns) == (48, 72)
    long, _ = preprocess(np.zeros((20, 100, 3), np.uint8))
    assert long.shape == (1, 3, 32, 128)  # 26 x 128: as large as fits
    predictor = predictor_of(net)
    images = [np.full((100, 150, 3), 90, np.uint8), np.full((99, 20, 3), 9, np.uint8)]
    found = predictor(images)
    assert len(found) == 2
    with pytest.raises(ValueError, match="in steps of 32"):
        predictor.detect(np.zeros((1, 3, 48, 96), np.float32))
    with pytest.raises(ValueError, match="a batch of shape"):
        predictor.detect(np.zeros((1, 3, 160, 96), np.float32))


# Targets and losses.


def test_anchors_are_drawn_with_and_without_objects(net):
    family = family_of(net)
    loss, anchors = family.loss(net), family.postprocess(net).anchors(*SIZE)
    holds, moves = loss.anchor_targets(LABELS[0], anchors, SIZE)
    drawn = holds[:, 0] >= 0
    assert drawn.sum() == 32
    overlaps = iou(LABELS[0][:, :4], anchors)
    inside = (anchors >= 0).all(axis=1)
    inside &= (anchors[:, 2] < SIZE[1]) & (anchors[:, 3] < SIZE[0])
    assert not drawn[~inside].any()
    with_object = np.flatnonzero(holds[:, 0] == 1)
    best = np.where(inside, overlaps, -1).max(axis=1)
    for row in with_object:
        is_best = (overlaps[:, row] == best).any()
        assert overlaps[:, row].max() >= 0.7 or is_best
    assert overlaps[:, holds[:, 0] == 0].max() < 0.3
    owners = overlaps[:, with_object].argmax(axis=0)
    expected = encode_deltas(LABELS[0][owners, :4], anchors[with_object], (1, 1, 1, 1))
    np.testing.assert_allclose(moves[with_object], expected, rtol=1e-5)
    assert (moves[holds[:, 0] != 1] == 0).all()


def test_objects_are_among_the_regions(net):
    loss = family_of(net).loss(net)
    proposals = np.full((5, 4), -1, np.float32)
    proposals[:2] = [12, 8, 50, 46], [0, 0, 20, 20]
    boxes, classes, shifts = loss.region_targets(proposals, LABELS[0])
    kinds = sorted(classes.tolist())
    assert kinds == [-1] * 12 + [0, 1, 2, 2]
    assert (boxes[classes == -1] == -1).all()
    assert boxes[classes == 0].tolist() == [[0, 0, 20, 20]]
    moved = (classes == 2) & (boxes[:, 0] == 12)
    np.testing.assert_allclose(
        shifts[moved][0], encode_deltas(LABELS[0][:1, :4], boxes[moved])[0], rtol=1e-5
    )
    exact = boxes[:, 0] == 60
    np.testing.assert_allclose(shifts[exact], 0, atol=1e-6)


def test_a_quarter_of_the_regions_have_objects_at_most():
    matches = np.array([3] * 50 + [-1] * 50)
    negative = matches < 0
    negative[-10:] = False
    drawn = draw(matches, negative, 40, ROI_SHARE)
    assert (drawn.matches == 3).sum() == 10
    assert len(drawn.rows) == 40
    assert drawn.rows.max() < 90
    few = draw(matches[:5], negative[:5], 40, ROI_SHARE)
    assert (len(few.rows), few.matches.tolist()) == (5, [3] * 5)
    assert len(draw(np.zeros(0, int), np.zeros(0, bool), 4, 0.5).rows) == 0


def test_drawing_follows_the_generator_of_mxnet():
    import mxnet as mx

    matches, negative = np.full(100, -1), np.ones(100, bool)
    rows = []
    for seed in (7, 7, 8):
        mx.random.seed(seed)
        rows.append(draw(matches, negative, 20, 0.5).rows.tolist())
    assert rows[0] == rows[1] != rows[2]


def test_smooth_l1_is_a_parabola_up_to_its_bend():
    values = smooth_l1(nd.array([0.0, 0.05, -1.0]), 0.1).asnumpy()
    np.testing.assert_allclose(values, [0, 0.05**2 / 0.2, 0.95], rtol=1e-6)


def test_images_without_objects_teach_the_background(net, images):
    family = family_of(net)
    block = family.training_net(net)
    targets = family.targets(net)([np.zeros((0, 6), np.float32)] * 2)
    _, parts_of_loss = family.loss(net)(
        block(images), [images, *map(nd.array, targets)]
    )
    values = {name: float(part.asscalar()) for name, part in parts_of_loss.items()}
    assert values["proposal"] == values["box"] == 0
    assert values["object"] == pytest.approx(np.log(2), rel=0.2)
    assert values["class"] == pytest.approx(np.log(3), rel=0.2)


def test_all_parameters_have_gradients_but_the_reference_regions(net, images):
    family = family_of(net)
    block = family.training_net(net)
    trained = {p.name for p in block.collect_params().values()}
    own = {p.name for p in net.collect_params().values()}
    assert own - trained == {"regions"}
    with autograd.record():
        loss, _ = family.loss(net)(block(images), batch_of(net, images))
    loss.backward()
    without = {
        parameter.name
        for parameter in block.collect_params(".*weight").values()
        if not parameter.grad().abs().sum().asscalar()
    }
    # Nothing is drawn of the smallest maps of so small an input.
    assert without <= {"rcnn_map2_weight", "rcnn_map3_weight", "rcnn_map4_weight"}


def test_parts_of_its_loss_cannot_be_balanced_by_gradients(net):
    family = family_of(net)
    block, loss = family.training_net(net), family.loss(net)
    with pytest.raises(ValueError, match="loss.balance is 'gradient_norm'; allowed"):
        balanced("gradient_norm", family, net, block, loss)
    block, weighed = balanced("uncertainty", family, net, block, loss)
    assert len(weighed.names) == 4


# Training.


def fit(net, images, folder, epochs, *, copied: Path | None = None):
    """Train on one batch; ``copied``: where to copy the folder before epoch 6."""
    family = family_of(net)
    batches = Fixed(*batch_of(net, images), count=2)
    schedule = Schedule(
        epochs=epochs,
        learning_rate=0.05,
        warmup_epochs=2,
        clip_norm=5.0,
    )

    def copy(net, progress) -> None:
        if copied is not None and progress.epoch == 6:
            shutil.copytree(folder, copied)

    step = models.supervised_step(family.loss(net))
    return train.fit(
        family.training_net(net),
        batches,
        step,
        schedule,
        folder,
        callbacks=[copy],
        options=Options(progress=False, seed=4, save_minutes=0, resume=True),
    )


def losses(folder) -> list[float]:
    steps, _ = train.read_log(folder / train.LOG)
    return [row["loss"] for row in steps]


def test_training_finds_the_objects_and_resumes_exactly(net, images, tmp_path):
    whole, fresh = (gc.slim(net, None) for _ in range(2))
    for parameter in fresh.collect_params(".*weight").values():
        parameter.set_data(1.5 * parameter.data())
    fit(whole, images, tmp_path / "whole", 8, copied=tmp_path / "parts")
    assert 0 < len(losses(tmp_path / "parts")) < len(losses(tmp_path / "whole"))
    fit(fresh, images, tmp_path / "parts", 8)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    for own, other in zip(*(n.collect_params().values() for n in (whole, fresh))):
        assert (own.data() == other.data()).asnumpy().all(), own.name
    course = losses(tmp_path / "whole")
    assert np.mean(course[-5:]) < 0.75 * np.mean(course[:5])


def test_a_student_learns_from_the_maps_of_a_teacher(net, small, images):
    family = family_of(net)
    family.check_teacher(small, net)
    taps = family.map_names(net)
    assert taps == (
        *(f"layer{i}" for i in (1, 2, 3, 4)),
        *(f"map{i}" for i in (0, 1, 2, 3)),
    )
    assert family.map_widths(net) == (16, 32, 64, 128, 16, 16, 16, 16)
    block = family.training_net(
        small, taps, adapters=family.map_widths(net), stride=2, seed=1
    )
    teacher = family.training_net(net, taps, stride=2)
    step = gc.distil_step(teacher, taps, family.loss(small), weights={"hints": 1.0})
    trainer = gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": 1e-3})
    with autograd.record():
        loss, parts_of_loss = step(block, batch_of(small, images))
    loss.backward()
    trainer.step(1)
    assert set(parts_of_loss) == {"object", "proposal", "class", "box", "hints"}
    same = gc.distil_step(teacher, taps, family.loss(net), weights={"hints": 1.0})
    assert same(teacher, batch_of(net, images))[1]["hints"].asscalar() < 1e-6


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 300}, "size is 300; allowed: multiples of 32"),
        ({"size": (64, 90)}, "size is .*multiples of 32"),
        ({"short": 1000}, "short is 1000; allowed: from 1 to 320"),
        ({"sizes": (32, 64)}, "sizes are .*; allowed: 5 numbers"),
        ({"ratios": ()}, "ratios are"),
        ({"rpn_post_nms": 0}, "rpn_post_nms is 0; allowed: a whole number from 1"),
        ({"fpn_channels": 1}, "fpn_channels is 1; allowed: a whole number from 2"),
        ({"roi_size": 2.5}, "roi_size is 2.5"),
        ({"steps": (8,)}, "model option 'steps'; allowed: "),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        models.build(NAME, CLASSES, **settings)


def test_trunks_of_one_stride_too_few_are_refused(tmp_path):
    trunk = models.build("mobilenet0.25", CLASSES, size=64)
    models.save(trunk, tmp_path / "trunk", "trunk")
    net = models.build(NAME, CLASSES, trunk=tmp_path / "trunk", **TINY)
    family = family_of(net)
    assert family.map_widths(net)[:4] == (32, 64, 128, 256)
    assert len(parts.stages(family.to_symbol(net))) == 2


def test_norms_can_be_fixed(images):
    net = models.build(THIN, CLASSES, fixed_norms=True, **TINY)
    statistics = [p.data().copy() for p in net.collect_params(".*mean").values()]
    block = family_of(net).training_net(net)
    with autograd.record():
        block(images)
    nd.waitall()
    for before, p in zip(statistics, net.collect_params(".*mean").values()):
        assert (before == p.data()).asnumpy().all()


# Mask R-CNN.


@pytest.fixture(scope="module")
def masked_net():
    return models.build("mask_rcnn_fpn_mobilenet0.25", CLASSES, seed=1, **TINY)


def test_a_mask_rcnn_gives_the_masks_of_what_it_finds(masked_net, images):
    family = family_of(masked_net)
    outputs = family.outputs(masked_net, images)
    assert outputs["masks"].shape == (2, 10, 14, 14)
    assert ((outputs["masks"] > 0) & (outputs["masks"] < 1)).all()
    small = gc.slim(masked_net, half(masked_net))
    alike(gc.mask(masked_net, half(masked_net))(images), small(images))
    manifest = family.manifest(small)
    assert manifest["kind"] == "mask_rcnn"
    assert manifest["outputs"][-1] == "masks"
    assert family.config_from_manifest(manifest) == family.config_of(small)
    more = models.with_classes(small, ["a", "b", "c"])
    assert [part.shape[1] for part in more(images)[2:]] == [4, 12, 3]


def test_masks_are_not_trained(masked_net):
    family = family_of(masked_net)
    with pytest.raises(ValueError, match="'mask_rcnn' are not trained here"):
        family.loss(masked_net)
    with pytest.raises(ValueError, match="weights.*masks are not trained here"):
        family.Settings(name="mask_rcnn_fpn_resnet18_v1b")
