from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import models
from gluon_compress.detector import load_detector, load_predictor
from images import picture
from runtimes import SIZE


@pytest.fixture(scope="module")
def model(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    models.save(net, folder, "tiny")
    return folder


def test_model_folder_and_deployed_folder_find_the_same(model, deployed, net):
    gluon = load_detector(model)
    runtime = load_detector(deployed, runtime="onnxruntime", threads=1)
    assert gluon.classes == runtime.classes == tuple(net.classes)
    assert (gluon.height, gluon.width) == (runtime.height, runtime.width) == SIZE
    image = picture(0, 1)
    ids, scores, boxes = gluon.find(image, 0.5)
    assert len(ids) > 0
    assert (scores >= 0.5).all()
    outputs = net(mx.nd.array(gluon.preprocess(image)[0]))
    expected = [output.asnumpy()[0] for output in outputs]
    enough = expected[1][:, 0] >= 0.5
    scale = np.array([image.shape[1] / 480, image.shape[0] / 300] * 2)
    np.testing.assert_array_equal(ids, expected[0][enough, 0])
    np.testing.assert_allclose(boxes, expected[2][enough] * scale, rtol=1e-4, atol=1e-3)
    others = runtime.find(image, 0.5)
    np.testing.assert_array_equal(others[0], ids)
    np.testing.assert_allclose(others[1], scores, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(others[2], boxes, rtol=1e-3, atol=0.1)


def test_both_detect_on_batches_of_numpy_and_mxnet(model, deployed, inputs):
    for detector in (load_detector(model), load_detector(deployed, runtime="mxnet")):
        results = detector.detect(inputs[:2])
        others = detector.detect(mx.nd.array(inputs[:2]))
        assert [part.shape[0] for part in results] == [2, 2, 2]
        for one, other in zip(results, others):
            np.testing.assert_array_equal(one, other)


def test_classifiers_are_predictors_but_no_detectors(deployed_classifier):
    model = deployed_classifier.parent / "model"
    ((ids, shares),) = load_predictor(model)([picture(0, 1)])
    assert len(ids) == len(shares) == 3
    with pytest.raises(ValueError, match="kind is 'classifier'"):
        load_detector(model)
    with pytest.raises(ValueError, match="kind is 'classifier-deployed'"):
        load_detector(deployed_classifier, runtime="mxnet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision is 'int8'; allowed without a runtime"),
        ({"threads": 2}, "threads is 2; allowed without a runtime"),
    ],
)
def test_options_that_would_do_nothing_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        load_detector(model, **options)


def test_deployed_folder_needs_a_runtime(deployed):
    with pytest.raises(ValueError, match="'ssd-deployed'.*allowed: mxnet, onnxruntime"):
        load_detector(deployed)


@pytest.mark.parametrize(
    "batch",
    [
        [[1]],
        np.zeros((3, *SIZE)),
        np.zeros((0, 3, *SIZE)),
        np.zeros((1, 3, 5, 5)),
        np.full((1, 3, *SIZE), np.nan),  # which a relu turns into 0
        np.full((1, 3, *SIZE), -np.inf),
    ],
    ids=["list", "one", "none", "size", "no number", "infinite"],
)
@pytest.mark.parametrize("runtime", [None, "mxnet"])
def test_batch_of_another_form_is_refused(model, deployed, batch, runtime):
    predictor = load_predictor(model if runtime is None else deployed, runtime=runtime)
    with pytest.raises(ValueError, match="^a batch"):
        predictor.detect(batch)


def test_arrays_of_mxnet_are_refused_at_once_by_a_runtime(deployed, inputs):
    batch = mx.nd.array(inputs)
    with pytest.raises(ValueError, match="NDArray"):
        load_predictor(deployed, runtime="mxnet").detect(batch)
