"""Detectors with weight masks and fake quantisers are detectors still."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from annotations import fake_quant, weight_mask
from gluon_compress import count, models, plan, slim, trace
from gluon_compress.deployment import fold
from gluon_compress.graph import annotate, block_of, pair_of
from gluon_compress.graph.annotations import annotations_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.models import family_of
from gluon_compress.models.ssd.predictors import find_predictors
from nets import difference
from runtimes import CLASSES, detector

SIZE = 96


@pytest.fixture(scope="module")
def plain():
    return detector(size=SIZE)


def annotations(net) -> dict:
    """Return annotations of the predictors of a map, and of the map."""
    graph = trace(net)
    scorer, locator = (
        find_predictors(graph.nodes, head)[0].layer for head in graph.heads
    )
    source, weight, _ = (graph.nodes[e[0]]["name"] for e in scorer["inputs"])
    _, second, bias = (graph.nodes[e[0]]["name"] for e in locator["inputs"])
    pattern = np.random.RandomState(0).randint(0, 2, graph.params[weight].shape)
    return {
        "weights": {
            weight: weight_mask(pattern.astype(np.float32)),
            second: fake_quant(np.full(graph.params[second].shape[:1], 0.05), 0),
            bias: fake_quant(np.full(1, 0.1), None),
        },
        "outputs": {
            scorer["name"]: fake_quant(np.full(1, 0.5), None),
            source: fake_quant(np.full(1, 0.1), None),
        },
    }


@pytest.fixture(scope="module")
def annotated(plain):
    return annotate(plain, **annotations(plain))


@pytest.fixture(scope="module")
def head(plain):
    """The raw head with the same annotations, as a pair."""
    net = annotate(pair_of(plain), **annotations(plain), shape=(1, 3, SIZE, SIZE))
    return pair_of(net)


@pytest.fixture(scope="module")
def images():
    return mx.nd.random.normal(shape=(2, 3, SIZE, SIZE))


def kinds(net) -> list[str]:
    nodes, _ = take_apart(pair_of(net)[0])
    return sorted(annotation.kind for annotation in annotations_of(nodes))


def test_detector_computes_what_its_annotated_head_does(plain, annotated, head, images):
    expected = block_of(*head)(images)
    assert isinstance(annotated, type(plain))
    assert difference(expected, block_of(*pair_of(annotated))(images)) < 1e-6
    assert difference(expected, block_of(*pair_of(plain))(images)) > 1e-3
    assert kinds(annotated) == ["fake_quant"] * 4 + ["weight_mask"]


def test_annotated_detector_trains_and_keeps_its_masks(annotated, head, images):
    block = family_of(annotated).training_net(annotated, taps=("map0",))
    outputs = list(block(images).values())[:2]
    assert difference(list(block_of(*head)(images)), outputs) < 1e-5
    params = {p.name: p for p in block.collect_params().values()}
    trained = {name for name, p in params.items() if p.grad_req != "null"}
    assert {n.rsplit("_", 1)[1] for n in trained} >= {"weight", "scale"}
    assert not any(name.endswith("_mask") for name in trained)


def test_annotated_detector_is_deployed_with_what_its_layers_read(
    annotated, head, images
):
    symbol, params = fold(*family_of(annotated).inference_graph(annotated))
    predictions = block_of(symbol, params)(images)
    expected = mx.nd.concat(*block_of(*head)(images), dim=2)
    assert difference(expected, predictions) < 1e-5


def test_annotated_detector_survives_pruning_its_folder_and_new_classes(
    annotated, images, tmp_path
):
    graph = trace(annotated)
    budget = plan.Budget(macs=0.7 * count(graph).macs)
    small = slim(annotated, plan.select(graph, budget))
    models.save(small, tmp_path / "small", "small")
    loaded = models.load(tmp_path / "small")
    assert difference(small(images), loaded(images)) == 0
    assert kinds(loaded) == kinds(annotated)
    other = models.with_classes(small, ("one", *CLASSES))
    assert kinds(other) == ["fake_quant"] * 3  # those of a map and of a box predictor


def test_annotation_behind_the_predictors_is_refused(plain):
    last = [n["name"] for n in trace(plain).nodes if n["op"] == "Concat"][-1]
    with pytest.raises(ValueError, match="behind the predictors"):
        annotate(plain, outputs={last: fake_quant(np.full(1, 0.1), None)})
