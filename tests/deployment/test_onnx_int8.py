"""Checks that int8 files compute the same wherever they run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runtimes import EVERY

pytestmark = pytest.mark.skipif(
    "onnx-int8" not in EVERY, reason="onnx is not installed"
)
LEVELS = np.arange(256)


def model_of(folder):
    import onnx

    return onnx.load(str(folder / "tiny-int8.onnx"))


def test_power_of_two_is_the_next_one():
    from gluon_compress.deployment.onnx_int8 import power_of_two

    values = [0.3, 0.5, 0.51, 3e-5]
    assert [power_of_two(v) for v in values] == [0.5, 0.5, 1.0, 2.0**-15]


def test_short_number_has_few_bits_and_is_barely_larger():
    from gluon_compress.deployment.onnx_int8 import BITS, short

    for value in np.random.RandomState(0).uniform(1e-6, 3, 100):
        mantissa, _ = np.frexp(short(value))
        assert mantissa * 2**BITS == int(mantissa * 2**BITS)
        assert value <= short(value) <= value * (1 + 2.0 ** (1 - BITS))
    assert short(0.75) == 0.75


def test_sums_of_levels_are_exact_in_float32(deployed_classifier):
    from gluon_compress.deployment.onnx_int8 import _QDQ

    graph = _QDQ(model_of(deployed_classifier))
    sums = [node for node in graph.sums() if node.op_type == "Add"]
    assert sums
    for node in sums:
        (scale,) = graph.scales_of_outputs(node)
        ratios = [
            graph.value(s) / graph.value(scale) for s in graph.scales_of_inputs(node)
        ]
        assert len(ratios) == 2
        one, other = (LEVELS * ratio for ratio in ratios)
        exact = one[:, None] + other
        assert (exact == exact.astype(np.float32)).all()


def test_biases_are_stated_by_the_scale_of_their_input(deployed_classifier):
    from onnx import numpy_helper

    graph = model_of(deployed_classifier).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    count = 0
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3:
            image, weight, bias = (
                constants[makers[name].input[1]] for name in node.input
            )
            np.testing.assert_allclose(bias, image * weight, rtol=1e-5)
            count += 1
    assert count > 3


@pytest.mark.parametrize("kind", ["deployed", "deployed_classifier"])
def test_what_joins_the_outputs_stays_float32(request, kind):
    folder = request.getfixturevalue(kind)
    graph = model_of(folder).graph
    makers = {output: node for node in graph.node for output in node.output}
    last = makers[graph.output[0].name]
    if kind == "deployed":
        assert last.op_type == "Concat"
        assert all(makers[name].op_type != "DequantizeLinear" for name in last.input)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["formats"]["onnx-int8"]["difference"] < 0.1


def test_nodes_behind_the_last_weights_are_found():
    from onnx import TensorProto, helper

    from gluon_compress.deployment.onnx_int8 import behind_last_weights

    def node(kind, name, inputs):
        return helper.make_node(kind, inputs, [name], name=name)

    nodes = [
        node("Conv", "first", ["data", "w"]),
        node("Relu", "between", ["first"]),
        node("Conv", "last", ["between", "w"]),
        node("Transpose", "turned", ["last"]),
        node("Concat", "joined", ["turned", "turned"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("data", "w", "joined")
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    names = behind_last_weights(helper.make_model(graph))
    assert sorted(names) == ["joined", "turned"]


def test_layers_may_share_weights_and_bias(tmp_path):
    from onnx import TensorProto, checker, helper, numpy_helper, save

    from gluon_compress.deployment.onnx_int8 import quantize
    from gluon_compress.deployment.runtimes import RUNTIMES

    random = np.random.RandomState(0)
    constants = {
        "weight": random.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32),
        "bias": random.normal(0, 1, 3).astype(np.float32),
    }
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["data", *constants], ["a"], "first", **pads),
        helper.make_node("Conv", ["a", *constants], ["b"], "second", **pads),
    ]
    data, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8])
        for name in ("data", "b")
    )
    values = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "shared", [data], [output], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    checker.check_model(model)
    save(model, str(tmp_path / "float.onnx"))
    images = random.uniform(-2, 2, (8, 3, 8, 8)).astype(np.float32)
    quantize(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", images, calibration="naive"
    )
    run, run_int8 = (
        RUNTIMES["onnxruntime"].open([tmp_path / name])
        for name in ("float.onnx", "int8.onnx")
    )
    for image in images[:2]:
        (expected,), (actual,) = run(image[None]), run_int8(image[None])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, atol=0.05 * scale)
