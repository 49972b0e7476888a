from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from gluoncv import model_zoo
from gluoncv.model_zoo.ssd import SSD
from mxnet import autograd

from gluon_compress import build, count, models
from gluon_compress.distill import imitation_masks
from gluon_compress.graph import trace
from gluon_compress.model_folder import export, read_manifest
from gluon_compress.models import ssd
from gluon_compress.models.backbones import (
    classifier_backbone,
    find_taps,
    resnet_backbone,
)
from gluon_compress.models.ssd import SSDTargets, raw_head, training
from gluon_compress.plan import delete
from gluon_compress.prune import slim

CLASSES = ("cat", "dog")
TINY = {"width": 0.25, "extras": (64, 32, 32)}


@pytest.fixture(scope="module")
def net() -> SSD:
    return models.build("ssd_300_mobilenet0.25", CLASSES, extras=(64, 32, 32))


@pytest.fixture(scope="module")
def images() -> mx.nd.NDArray:
    return mx.nd.array(np.random.RandomState(0).randn(2, 3, 300, 300))


def outputs(block, images) -> list[np.ndarray]:
    found = block(images)
    found = found.values() if isinstance(found, dict) else found
    return [o.asnumpy() for o in found]


def maps_of(net: SSD, images, **settings) -> list[mx.nd.NDArray]:
    """Return the feature maps that a net gives for training."""
    block = training.training_net(net, **settings)
    return list(block(images).values())[2:]


def raw(net: SSD, images) -> list[np.ndarray]:
    """Run the unchanged raw head of a net."""
    names = net.collect_params()
    data = mx.sym.var("data", dtype="float32")
    block = mx.gluon.SymbolBlock(raw_head.raw_head(net), data, params=names)
    return outputs(block, images)


def assert_close(own, other, tolerance: float = 1e-5) -> None:
    for a, b in zip(own, other):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def stored(net) -> int:
    return sum(p.data().size for p in net.collect_params().values())


@pytest.mark.slow
def test_full_detector_is_as_large_as_computed_and_its_bottlenecks_are_identity():
    net = models.build("ssd_300_resnet50_v1d")
    learned = [p for p in net.collect_params().values() if p.grad_req != "null"]
    assert sum(p.data().size for p in learned) == pytest.approx(31.7e6, rel=2e-3)
    assert raw_head.map_widths(net) == (512, 1024, 2048, 512, 256, 256)
    assert net.classes == list(models.VOC_CLASSES)
    gammas = net.collect_params(".*gamma").values()
    assert sum(not gamma.data().asnumpy().any() for gamma in gammas) == 16


def test_trunk_that_gluoncv_has_pruned_carries_a_detector():
    net = models.build("ssd_300_resnet50_v1d_0.11", CLASSES, extras=(64, 32, 32))
    # The widths of its stages are those that GluonCV publishes.
    assert raw_head.map_widths(net) == (16, 80, 784, 64, 32, 32)


def test_anchors_are_the_classic_8732(net):
    anchors = ssd.anchors_of(net).asnumpy()
    assert anchors.shape == (1, 8732, 4)
    # The first: centre of the first cell of 8 pixels, 30 pixels square.
    np.testing.assert_allclose(anchors[0, 0], [4, 4, 30, 30], rtol=1e-6)
    # The second: the mean, in ratio, of this size and the next, 60.
    np.testing.assert_allclose(anchors[0, 1, 2:], [(30 * 60) ** 0.5] * 2, rtol=1e-6)


# The classic MobileNet-SSD.


@pytest.fixture(scope="module")
def lite() -> SSD:
    return models.build("ssd_300_mobilenet0.25_lite", CLASSES)


@pytest.mark.filterwarnings("ignore:Cannot decide type")
def test_lite_detector_has_the_1917_anchors_of_gluoncv(lite):
    theirs = model_zoo.get_model(
        "ssd_300_mobilenet1.0_lite_coco", pretrained_base=False
    )
    maps = [(19, 3), (10, 6), (5, 6), (3, 6), (2, 6), (1, 6)]
    parts = [
        generator.anchors.value[:, :, :side, :side].reshape((1, -1, 4)).asnumpy()
        for generator, (side, _) in zip(theirs.anchor_generators, maps)
    ]
    assert sum(side * side * depth for side, depth in maps) == 1917
    found = ssd.anchors_of(lite).asnumpy()
    np.testing.assert_allclose(found, np.concatenate(parts, 1), rtol=1e-6)


@pytest.mark.slow
def test_lite_mobilenet_costs_what_is_published_of_it():
    """1.148 GMACs and 23.3 MB for the 20 classes of VOC."""
    cost = count(models.graph_of(models.build("ssd_300_mobilenet1.0_lite")))
    assert cost.macs == pytest.approx(1.148e9, rel=1e-3)
    assert cost.bytes == pytest.approx(23.3e6, rel=2e-3)


@pytest.mark.slow
def test_mobilenet_on_the_six_maps_costs_more():
    cost = count(models.graph_of(models.build("ssd_300_mobilenet1.0")))
    assert cost.macs == pytest.approx(1.81e9, rel=5e-3)
    assert cost.bytes == pytest.approx(26.8e6, rel=5e-3)


def test_lite_detector_survives_pruning_and_its_folder(lite, images, tmp_path):
    small = slim(lite, delete(models.graph_of(lite), {"*": 0.5}, multiple=1))
    models.save(small, tmp_path / "model", "lite")
    loaded = models.load(tmp_path / "model")
    assert ssd.config_of(loaded) == ssd.config_of(lite)
    assert ssd.config_of(loaded).lite
    assert ssd.config_of(loaded).predictor_kernel == (1, 1)
    assert_close(outputs(loaded, images), outputs(small, images))
    assert_close(outputs(training.training_net(loaded), images), raw(small, images))


def test_teacher_with_the_usual_anchors_is_refused_by_a_lite_student(lite, net):
    with pytest.raises(ValueError, match="anchor"):
        training.check_teacher(lite, net)


def test_training_form_gives_scores_deltas_and_anchors(net, images):
    fresh = models.build("ssd_300_mobilenet0.25", CLASSES, extras=(64, 32, 32))
    with autograd.record():
        scores, deltas, anchors = fresh(images)
    assert scores.shape == (2, 8732, 3)
    assert deltas.shape == (2, 8732, 4)
    np.testing.assert_array_equal(anchors.asnumpy(), ssd.anchors_of(net).asnumpy())


def test_inference_form_gives_ids_scores_and_boxes(net, images):
    ids, scores, corner_boxes = net(images)
    assert ids.shape == scores.shape == (2, 100, 1)
    assert corner_boxes.shape == (2, 100, 4)


def test_head_block_gives_what_the_raw_head_gives(net, images):
    assert_close(outputs(training.training_net(net), images), raw(net, images))


def test_thin_taps_have_every_second_cell_of_maps_that_are_large(net, images):
    names = raw_head.map_names(net)
    maps = maps_of(net, images, taps=names)
    thin = maps_of(net, images, taps=names, stride=2)
    assert [m.shape[2] for m in thin] == [19, 10, 5, 5, 3, 1]
    for whole, part in zip(maps, thin):
        step = 2 if whole.shape[2] > 5 else 1
        assert_close([part.asnumpy()], [whole.asnumpy()[:, :, ::step, ::step]])


def test_adapters_are_the_same_on_fewer_cells(net, images):
    how = {"taps": ("map0", "map4"), "adapters": (8, 4), "seed": 3}
    whole, part = (maps_of(net, images, **how, stride=s) for s in (1, 2))
    assert_close([part[0].asnumpy()], [whole[0].asnumpy()[:, :, ::2, ::2]])
    assert_close([part[1].asnumpy()], [whole[1].asnumpy()])


def test_head_block_gives_adapted_taps(net, images):
    block = training.training_net(net, taps=("map1", "map4"), adapters=(8, 4))
    found = block(images)
    assert list(found) == ["class_scores", "box_deltas", "map1", "map4"]
    assert found["map1"].shape[1:3] == (8, 19)
    assert found["map4"].shape[1:3] == (4, 3)
    assert not any("adapter" in name for name in net.collect_params())


def test_taps_are_the_maps_that_predictors_read(net, images):
    maps = maps_of(net, images, taps=raw_head.map_names(net))
    assert tuple(m.shape[1] for m in maps) == raw_head.map_widths(net)
    assert [m.shape[2] for m in maps] == [38, 19, 10, 5, 3, 1]


def test_map_anchors_belong_to_the_cells_of_their_maps(net):
    anchors = ssd.anchor_grid(net)
    sides = (38, 19, 10, 5, 3, 1)
    each = (4, 6, 6, 6, 4, 4)
    assert anchors.maps == tuple((n, n, k) for n, k in zip(sides, each))
    start = 0
    for n, k, step in zip(sides, each, (8, 16, 32, 64, 100, 300)):
        boxes = anchors.center_boxes[start : start + n * n * k]
        centres = boxes[:, :2].reshape(n, n, k, 2)
        middle = (np.arange(n) + 0.5) * step
        np.testing.assert_allclose(centres[0, :, 0, 0], middle, rtol=1e-5)
        np.testing.assert_allclose(centres[:, 0, -1, 1], middle, rtol=1e-5)
        start += n * n * k
    assert start == len(anchors.center_boxes) == 8732


def test_cells_near_an_object_lie_on_the_map_of_its_size(net):
    # 32 pixels square around (100, 200): like the anchors of 30 on the first map; the
    # smallest square that the third map has, 111, overlaps it by a twelfth.
    label = np.array([[84, 184, 116, 216, 0, 0]], np.float32)
    targets = SSDTargets(ssd.anchors_of(net))([label])
    masks = imitation_masks(*targets, ssd.anchor_grid(net), 0.5)
    rows, columns = np.nonzero(masks[0][0])
    assert (rows + 0.5).mean() * 8 == pytest.approx(200)
    assert (columns + 0.5).mean() * 8 == pytest.approx(100)
    assert not any(mask.any() for mask in masks[2:])
    chosen = imitation_masks(*targets, ssd.anchor_grid(net, ["map3", "map0"]), 0.5)
    assert [mask.shape for mask in chosen] == [(1, 5, 5), (1, 38, 38)]
    assert (chosen[1] == masks[0]).all()


def test_a_tap_that_does_not_exist_is_answered_with_those_that_do(net):
    message = "tap 'map6'; allowed: map0, map1, map2, map3, map4, map5"
    with pytest.raises(ValueError, match=message):
        training.training_net(net, taps=("map0", "map6"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": ("cat", "cow")},
            r"classes: the teacher has \('cat', 'cow'\), the",
        ),
        ({"size": 320}, "image size: the teacher has 320, the student 300; a teacher"),
        (
            {"sizes": (20, 60, 111, 162, 213, 264, 315)},
            r"anchor sizes: .* has \(20\.0,",
        ),
        ({"ratios": ((1, 2, 0.5),) * 6}, r"anchor ratios: the teacher has \(\(1, 2, 0"),
        (
            {"steps": (8, 16, 32, 64, 100, 301)},
            r"anchor steps: the teacher has \(8\.0,",
        ),
        ({"stds": (0.1, 0.1, 0.1, 0.1)}, "stds of box deltas: the teacher has"),
    ],
)
def test_teacher_with_other_classes_or_anchors_is_refused(net, change, message):
    options = {"classes": CLASSES, "extras": (64, 32, 32), **change}
    teacher = models.build("ssd_300_mobilenet0.25", **options)
    with pytest.raises(ValueError, match=message):
        training.check_teacher(net, teacher)


def test_teacher_of_another_trunk_and_width_is_welcome(net):
    teacher = models.build("ssd_300_resnet18_v1b", CLASSES, extras=(32, 16, 16))
    training.check_teacher(net, teacher)


def test_head_block_trains_the_net_itself(net, images):
    fresh = models.build("ssd_300_mobilenet0.25", CLASSES, extras=(64, 32, 32))
    block = training.training_net(fresh)
    before = raw(fresh, images)
    trainer = mx.gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": 0.1})
    with autograd.record():
        loss = (block(images)["class_scores"] ** 2).mean()
    loss.backward()
    trainer.step(1)
    moved = np.abs(raw(fresh, images)[0] - before[0]).max()
    assert 1e-3 < moved < 10


def test_start_has_scores_of_order_one(net, images):
    # Predictors must not start with the scale of the convolutions before them.
    scores, deltas = raw(net, images)
    assert 0.01 < scores.std() < 3
    assert 0.01 < deltas.std() < 3


def test_same_seed_gives_the_same_values():
    nets = [
        models.build("ssd_300_mobilenet0.25", CLASSES, seed=seed) for seed in (1, 1, 2)
    ]
    first, same, other = (
        [p.data().asnumpy() for p in net.collect_params(".*weight").values()]
        for net in nets
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, same))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))


def test_names_do_not_depend_on_what_was_built_before():
    first, second = (
        list(models.build("ssd_300_resnet18_v1b", CLASSES).collect_params())
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == len(first)


def test_configuration_is_read_back():
    config = {"sizes": (16, 32, 64, 111, 162, 213, 264), "nms_topk": 50}
    net = models.build("ssd_300_mobilenet0.25", CLASSES, **config)
    found = ssd.config_of(net)
    assert found.sizes == config["sizes"]
    assert found.nms_topk == 50
    assert found.classes == CLASSES
    assert found.steps == (8, 16, 32, 64, 100, 300)


def test_width_narrows_the_whole_detector(net):
    narrow = build("ssd_300_mobilenet0.25", CLASSES, **TINY)
    assert isinstance(narrow, SSD)
    assert raw_head.map_widths(narrow) == tuple(
        w // 4 for w in raw_head.map_widths(net)
    )


@pytest.fixture(scope="module")
def slimmed(net) -> SSD:
    graph = trace(net, shape=(1, 3, 300, 300))
    return slim(net, delete(graph, {"*": 0.5}, "l1", multiple=1))


def test_slim_detector_takes_new_classes(slimmed, images):
    again = slim(slimmed, delete(trace(slimmed, shape=(1, 3, 300, 300)), {"*": 1.0}))
    again.reset_class(["a", "b", "c", "d"])
    again.hybridize()
    ids, _, _ = again(images)
    assert again.num_classes == 4
    assert ids.asnumpy().max() <= 3
    with autograd.record():
        again.hybridize()
        assert again(images)[0].shape == (2, 8732, 5)


@pytest.mark.parametrize(
    "kind", ["ssd_300_mobilenet0.25", "ssd_300_mobilenet0.25_lite"]
)
def test_other_classes_keep_everything_but_the_class_predictors(kind, images):
    net = models.build(kind, CLASSES, seed=3)
    more = raw_head.with_classes(net, ["a", "b", "c", "d", "e"], seed=4)
    assert list(net.classes) == list(CLASSES)
    assert raw_head.map_widths(more) == raw_head.map_widths(net)
    (scores, deltas), (_, before) = raw(more, images), raw(net, images)
    assert scores.shape == (*deltas.shape[:2], 6)
    assert_close([deltas], [before])
    again = raw_head.with_classes(net, ["a", "b", "c", "d", "e"], seed=4)
    assert (raw(again, images)[0] == scores).all()
    assert ssd.config_of(more).lite == ssd.config_of(net).lite


def test_slim_detector_obeys_set_nms(slimmed, images):
    again = slim(slimmed, delete(trace(slimmed, shape=(1, 3, 300, 300)), {"*": 1.0}))
    again.set_nms(nms_thresh=0.3, nms_topk=40, post_nms=7)
    assert again(images)[0].shape == (2, 7, 1)


def test_slim_detector_runs_gluoncv_presets(slimmed):
    from gluoncv.data.transforms.presets.ssd import transform_test

    picture = mx.nd.array(np.zeros((400, 300, 3)), dtype="uint8")
    data, _ = transform_test([picture], short=300)
    assert slimmed(data)[0].shape == (1, 100, 1)


def test_saved_detector_loads_equal(slimmed, images, tmp_path):
    models.save(slimmed, tmp_path / "model", "small")
    loaded = models.load(tmp_path / "model")
    assert ssd.config_of(loaded) == ssd.config_of(slimmed)
    assert_close(raw(loaded, images), raw(slimmed, images), 1e-6)
    assert_close(outputs(loaded, images), outputs(slimmed, images))


def test_manifest_states_what_the_head_does_not_hold(slimmed, tmp_path):
    manifest = models.save(slimmed, tmp_path / "model", "small")
    assert manifest["classes"] == list(CLASSES)
    assert manifest["anchors"]["sizes"] == (30, 60, 111, 162, 213, 264, 315)
    assert manifest["nms"] == {"nms_thresh": 0.45, "nms_topk": 400, "post_nms": 100}
    assert manifest["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "ssd_301"}, "model 'ssd_301'; allowed: .*ssd_300"),
        ({"width": 0}, "width 0 of ssd_300_mobilenet0.25; allowed: above 0 to 1"),
        ({"width": 0.5, "trunk": "any"}, "width 0.5 of .*; allowed with a trunk: 1"),
        ({"size_of": 1}, "option 'size_of'; allowed: .*sizes"),
        ({"sizes": (1, 2)}, "6 lists of ratios need 7 sizes"),
        ({"extras": (8, 8)}, "2 stages for 6 maps; the backbone has 3 taps, not 4"),
        ({"extras": (8,) * 6}, "6 stages for 6 maps; allowed: fewer"),
        ({"classes": ("a", "a")}, "distinct names"),
        ({"classes": ()}, "distinct names"),
        ({"classes": ("a", "mAP")}, "class 'mAP': .*; allowed: any but mAP, kind, ep"),
        ({"classes": ("kind",)}, "class 'kind'"),
        ({"classes": ("epoch",)}, "class 'epoch'"),
    ],
)
def test_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"name": "ssd_300_mobilenet0.25", **arguments})


def test_thin_net_has_every_layer():
    # Of the first layer's 8 channels less than half a channel is left.
    thin = build("ssd_300_mobilenet0.25", CLASSES, width=0.05)
    assert thin.collect_params()["mobilenet_conv0_weight"].shape[0] == 1


FEW = {"ratios": ((1, 2),) * 3, "sizes": (30, 60, 90, 120), "steps": (8, 16, 32)}
SIZES = [  # name, options, the smallest size and the largest
    ("ssd_300_mobilenet0.25", {}, 257, 512),
    ("ssd_300_resnet18_v1b", {}, 257, 512),
    ("ssd_300_mobilenet0.25_lite", {}, 32, 1024),
    ("ssd_300_mobilenet0.25", {**FEW, "extras": ()}, 32, 512),
    ("ssd_300_mobilenet0.25", {**FEW, "extras": (32,)}, 65, 576),
]


@pytest.mark.parametrize(("name", "options", "least", "most"), SIZES)
def test_sizes_at_the_ends_give_one_score_for_each_anchor(name, options, least, most):
    for size in (least, most):
        net = models.build(name, CLASSES, size=size, **options)
        _, shapes, _ = raw_head.raw_head(net).infer_shape(data=(1, 3, size, size))
        anchors = ssd.anchors_of(net).shape[1]
        assert [shape[1] for shape in shapes] == [anchors, anchors]
        assert min(shape[2] for shape in raw_head.map_shapes(net)) >= 1


@pytest.mark.parametrize(("name", "options", "least", "most"), SIZES)
def test_size_that_the_maps_cannot_have_is_named(capfd, name, options, least, most):
    for size in (least - 1, most + 1, 0, 5000, 300.0, "300"):
        with pytest.raises(ValueError, match=f"{least} to {most} pixels") as told:
            models.build(name, CLASSES, size=size, **options)
        assert str(told.value).startswith(f"size is {size!r}; allowed: ")
    assert capfd.readouterr() == ("", "")


def test_size_on_the_trunk_of_another_net_is_checked_too(tmp_path):
    classifier = model_zoo.get_model("mobilenet0.25", classes=4)
    classifier.initialize()
    classifier(mx.nd.zeros((1, 3, 64, 64)))
    export(classifier, tmp_path / "trunk", shape=(1, 3, 64, 64))
    how = {"trunk": tmp_path / "trunk", "size": 256}
    with pytest.raises(ValueError, match="size is 256; allowed: 257 to 512"):
        models.build("ssd_300_mobilenet0.25", CLASSES, **how)


def test_folder_of_another_kind_is_named(tmp_path):
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="dense")
    params = {"dense_weight": mx.nd.ones((2, 3)), "dense_bias": mx.nd.ones(2)}
    export((symbol, params), tmp_path / "m", "dense", shape=(1, 3), info={})
    with pytest.raises(ValueError, match="manifest.json: kind is None; allowed: ssd"):
        models.load(tmp_path / "m")


def rewritten(folder, path, value):
    """Change one key of a folder's manifest."""
    content = inner = read_manifest(folder)
    *places, last = path.split("/")
    for place in places:
        inner = inner[place]
    inner[last] = value
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("classes", 5, "classes is 5; allowed: a list"),
        (
            "classes",
            ["a", "a"],
            "classes is .*; allowed: a list of distinct names",
        ),
        ("classes", ["a"], "gives 12 channels; the classes and anchors need 8"),
        ("anchors", None, "anchors is None; allowed: an object"),
        ("anchors/size", "300", "anchors.size is '300'; allowed: a whole number"),
        ("anchors/steps", [8], "anchors: 6 lists of ratios need 7 sizes and 6 steps"),
        ("anchors/scale", 2, "anchors.scale: no such key; allowed: size"),
        ("decode", {}, "decode.stds: this key is missing"),
        ("nms/nms_topk", 1.5, "nms.nms_topk is 1.5; allowed: a whole number"),
        ("name", ["x"], r"name is \['x'\]; allowed: "),
        ("input", "data", "input is 'data'; allowed: an object"),
    ],
)
def test_manifest_that_states_what_cannot_be_is_refused(
    slimmed, tmp_path, path, value, message
):
    models.save(slimmed, tmp_path / "m", "m")
    rewritten(tmp_path / "m", path, value)
    with pytest.raises(ValueError, match=f"m/manifest.json: .*{message}"):
        models.load(tmp_path / "m")


def test_structure_without_weights_is_named(slimmed, tmp_path):
    files = models.save(slimmed, tmp_path / "m", "m")["files"]
    (tmp_path / "m" / "m-0000.params").unlink()
    rewritten(tmp_path / "m", "files", {"m-symbol.json": files["m-symbol.json"]})
    with pytest.raises(ValueError, match="m: holds a structure without weights"):
        models.load(tmp_path / "m")


def test_detector_is_no_trunk(slimmed, tmp_path):
    models.save(slimmed, tmp_path / "m", "m")
    with pytest.raises(ValueError, match="json: kind is 'ssd'; allowed.* 'classifier'"):
        models.build("ssd_300_resnet50_v1d", CLASSES, trunk=tmp_path / "m")


@pytest.mark.parametrize("name", ["resnet18_v1b", "resnet50_v1d"])
def test_taps_found_in_a_symbol_are_the_stages(name):
    net, taps = resnet_backbone(name)
    found = find_taps(net(mx.sym.var("data")))
    assert [t.name for t in found] == [t.name for t in taps]


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("mobilenet1.0", [256, 512, 1024]),
        ("mobilenetv2_0.5", [96, 288, 1280]),
        ("vgg11_bn", [512, 512, 512]),
        ("densenet121", [256, 512, 1024]),
    ],
)
def test_taps_are_found_in_other_nets(name, widths):
    symbol = model_zoo.get_model(name)(mx.sym.var("data"))
    taps = mx.sym.Group(find_taps(symbol))
    _, shapes, _ = taps.infer_shape_partial(data=(1, 3, 256, 256))
    assert [s[1] for s in shapes] == widths
    assert [s[2] for s in shapes] == [32, 16, 8]


def test_net_without_strides_has_no_taps():
    symbol = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=2)
    with pytest.raises(ValueError, match="no tensor at stride 8"):
        find_taps(symbol)


def test_detector_on_a_trunk_pruned_as_a_classifier(tmp_path, images):
    classifier = model_zoo.get_model("resnet18_v1b", classes=10)
    classifier.initialize(mx.init.Xavier())
    classifier(mx.nd.zeros((1, 3, 64, 64)))
    graph = trace(classifier, shape=(1, 3, 64, 64))
    small = slim(classifier, delete(graph, {"*": 0.25}, "l1", multiple=1), graph=graph)
    symbol = small(mx.sym.var("data"))
    params = {p.name: p.data() for p in small.collect_params().values()}
    export((symbol, params), tmp_path / "trunk", "trunk", shape=(1, 3, 64, 64), info={})
    net = models.build("ssd_300_resnet18_v1b", CLASSES, trunk=tmp_path / "trunk")
    assert raw_head.map_widths(net)[:3] == (32, 64, 128)
    own = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
    _, taps = classifier_backbone(symbol, params)
    for name in taps[-1].list_arguments()[1:]:
        np.testing.assert_array_equal(own[name], params[name].asnumpy())
    assert net(images)[0].shape == (2, 100, 1)
