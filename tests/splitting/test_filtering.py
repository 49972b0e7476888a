"""The neural filter: its layers, its threshold, and its place in a head."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest

from center_net import CLASSES, small_detector
from gluon_compress.deployment import FORMATS
from gluon_compress.splitting import open_head, open_tail, save_halves
from gluon_compress.splitting.filtering import (
    FilterSettings,
    HasTarget,
    NeuralFilter,
    averaging,
    check_filter,
    choose_threshold,
    filter_symbol,
    fit_filter,
    new_filter,
    shapes_of_filter,
    targets_of,
)
from gluon_compress.splitting.saving import HEAD_FORMATS
from gluon_compress.train import Options, Schedule
from runtimes import INSTALLED

SHAPE = (8, 8, 16)  # of trunk_stem_relu
MXNET = {"head_formats": ("mxnet",), "tail_formats": ("mxnet",)}
QUICK = Schedule(
    epochs=4, batch_size=4, learning_rate=0.02, warmup_epochs=0, validate_every=0
)


@pytest.mark.parametrize(("length", "cells"), [(75, 64), (14, 8), (8, 64), (200, 64)])
def test_averages_are_those_of_adaptive_pooling(length, cells):
    x = mx.nd.random.normal(shape=(1, 2, length, length))
    matrix = averaging(length, cells)
    ours = matrix @ x.asnumpy() @ matrix.T
    theirs = mx.nd.contrib.AdaptiveAvgPooling2D(x, output_size=cells).asnumpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_layers_are_as_published():
    shapes = shapes_of_filter((64, 75, 75))
    assert shapes["filter_conv0_weight"] == (64, 64, 4, 4)
    assert shapes["filter_conv1_weight"] == (32, 64, 3, 3)
    assert shapes["filter_conv2_weight"] == (16, 32, 2, 2)
    assert shapes["filter_dense_weight"] == (2, 16 * 8 * 8)
    assert FilterSettings().train.to_json()["milestones"] == [15, 25]


def test_averages_are_not_trained():
    block = new_filter(SHAPE)
    fixed = {n for n, p in block.collect_params().items() if p.grad_req == "null"}
    assert {n for n in fixed if "pool" in n} == {
        f"filter_pool{i}_{axis}_weight" for i in (0, 1) for axis in ("rows", "columns")
    }
    assert block(mx.nd.zeros((3, *SHAPE))).shape == (3, 2)


def test_the_threshold_keeps_the_wanted_recall():
    shares = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    truth = np.array([1, 1, 0, 1, 1, 0, 0, 0, 1, 0], bool)
    all_of_them = choose_threshold(shares, truth, 1.0)
    assert all_of_them["threshold"] == pytest.approx(0.1)
    assert all_of_them["recall"] == 1
    assert all_of_them["precision"] == pytest.approx(5 / 9)
    most = choose_threshold(shares, truth, 0.8)
    assert most["threshold"] == pytest.approx(0.5)
    assert (most["recall"], most["precision"]) == (0.8, 0.8)
    assert most["sent"] == 0.5


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.95, 1.0])
def test_no_higher_threshold_has_the_recall(recall):
    rng = np.random.RandomState(0)
    shares, truth = rng.rand(200), rng.rand(200) < 0.4
    chosen = choose_threshold(shares, truth, recall)
    assert chosen["recall"] >= recall
    higher = shares[shares > chosen["threshold"] + 2e-6].min()
    assert (shares[truth] > higher).mean() < recall


def test_targets_are_valid_objects_of_wanted_classes():
    easy, hard = [0, 0, 9, 9, 1, 0], [0, 0, 9, 9, 0, 1]
    labels = [np.array([easy, hard]), np.array([hard]), np.zeros((0, 6))]
    assert HasTarget()(labels)[0].tolist() == [1, 0, 0]
    assert targets_of(CLASSES, ("blue",))(labels)[0].tolist() == [0, 0, 0]
    assert targets_of(CLASSES, ("green",))(labels)[0].tolist() == [1, 0, 0]


class Scenes:
    """Dark images without an object, bright ones with one."""

    classes = CLASSES
    problems = ()

    def __init__(self, count=12, labels=None):
        self.count, self.labels = count, labels

    def __len__(self):
        return self.count

    def label(self, i):
        bright = i % 2 if self.labels is None else self.labels
        return np.array([[2, 2, 20, 20, 0, 0]] * int(bright), float).reshape(-1, 6)

    def __getitem__(self, i):
        noise = np.random.RandomState(i).randint(0, 60, (32, 64, 3))
        return (noise + 180 * (len(self.label(i)) > 0)).astype(np.uint8), self.label(i)


@pytest.fixture(scope="module")
def net():
    return small_detector()


@pytest.fixture(scope="module")
def neural_filter(net, tmp_path_factory):
    settings = FilterSettings(recall=1.0, train=QUICK)
    return fit_filter(
        net,
        Scenes(),
        Scenes(8),
        settings,
        tmp_path_factory.mktemp("filter"),
        after="trunk_stem_relu",
        options=Options(progress=False),
    )


def test_a_filter_learns_what_can_be_seen(neural_filter):
    assert neural_filter.on == "trunk_stem_relu"
    assert neural_filter.recall == neural_filter.precision == 1
    assert neural_filter.sent == 0.5


def test_a_filter_comes_back_from_its_file(neural_filter, tmp_path):
    neural_filter.save(tmp_path / "filter.npz")
    back = NeuralFilter.load(tmp_path / "filter.npz")
    assert back.facts() == neural_filter.facts()
    assert back.shape == neural_filter.shape
    for name, value in neural_filter.params.items():
        np.testing.assert_array_equal(value.asnumpy(), back.params[name].asnumpy())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "filter.npz").read_bytes()[:-9])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for file in ("cut.npz", "other.npz", "missing.npz"):
        with pytest.raises(ValueError, match=file) as error:
            NeuralFilter.load(tmp_path / file)
        assert "\n" not in str(error.value)


def test_what_the_filter_drops_is_not_sent(net, neural_filter, tmp_path):
    manifests = save_halves(
        net, tmp_path, at="pooling0", neural_filter=neural_filter, **MXNET
    )
    stated = manifests["head"]["filter"]
    assert stated["threshold"] == neural_filter.threshold
    head = open_head(tmp_path / "head", runtime="mxnet")
    sent = [head.encode(Scenes()[i][0]) is not None for i in range(8)]
    assert sent == [False, True] * 4
    without = save_halves(net, tmp_path / "plain", at="pooling0", **MXNET)
    assert without["head"]["split"]["pair"] != manifests["head"]["split"]["pair"]
    bright = Scenes()[1][0]
    plain = open_head(tmp_path / "plain" / "head", runtime="mxnet")
    assert plain.encode(bright) == head.encode(bright)
    assert open_tail(tmp_path / "tail", runtime="mxnet").detect([head.encode(bright)])


@pytest.mark.parametrize("form", [f for f in HEAD_FORMATS if f in INSTALLED])
def test_the_filter_runs_in_every_runtime(form, net, neural_filter, tmp_path):
    save_halves(
        net,
        tmp_path,
        at="pooling0",
        neural_filter=neural_filter,
        head_formats=(form,),
        tail_formats=("mxnet",),
    )
    head = open_head(tmp_path / "head", runtime=FORMATS[form].runtime)
    sent = [head.encode(Scenes()[i][0]) is not None for i in range(2)]
    assert sent == [False, True]


def test_a_manifest_that_says_it_filters_must(net, tmp_path):
    save_halves(net, tmp_path, at="pooling0", **MXNET)
    file = tmp_path / "head" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "filter": {"threshold": 0.5}}))
    with pytest.raises(ValueError, match="outputs"):
        open_head(tmp_path / "head", runtime="mxnet")


def test_a_filter_of_another_map_is_refused(net, neural_filter, tmp_path):
    with pytest.raises(ValueError, match="the filter's map"):
        save_halves(
            net, tmp_path, at="trunk_stem_bn", neural_filter=neural_filter, **MXNET
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on": "nowhere"}, "at is 'nowhere'"),
        ({"classes": ("pink",)}, "filter.classes is 'pink'"),
        ({}, "filter.on is None"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(net, settings, words):
    with pytest.raises(ValueError, match=words) as error:
        check_filter(net, FilterSettings(**settings), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("labels", "word"), [(1, "without"), (0, "with")])
def test_images_of_one_kind_teach_nothing(net, labels, word, tmp_path):
    with pytest.raises(ValueError, match=f"no training image is {word} a target"):
        fit_filter(
            net,
            Scenes(labels=labels),
            Scenes(),
            FilterSettings(on="trunk_stem_relu"),
            tmp_path,
        )


def test_scores_of_the_symbol_are_of_none_and_some():
    assert filter_symbol(mx.sym.var("data")).list_outputs() == ["filter_dense_output"]
