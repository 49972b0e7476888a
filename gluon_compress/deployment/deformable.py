"""The form in which runtimes compute deformable convolutions.

========== ===========================================================================
deformable one operator; MXNet's own, and DeformConv of ONNX from opset 19 on
dilated    a sum of dilated convolutions; exact where distances between taps are whole
sampled    nine samplings (GridSample of ONNX from opset 16 on) and 1 x 1 convolutions
========== ===========================================================================

The form is the fastest of those that a runtime has (``docs/benchmark/deformable``). Two
are an exception: ONNX files have the dilated form at any bound, because browsers and
OpenVINO read them too; MXNet's files have the operator, which stores weights once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gluon_compress.graph.deformable import deformable_nodes, dilated, sampled
from gluon_compress.graph.symbols import take_apart

if TYPE_CHECKING:
    from gluon_compress.deployment.formats import InferenceGraph

FORMS_OF = {  # of runtimes, the preferred first
    "mxnet": ("deformable",),
    "onnxruntime": ("dilated", "deformable"),
    "openvino": ("dilated", "sampled"),
    "ncnn": ("sampled",),
    "opencv": (),
}


def form_for(graph: InferenceGraph, runtime: str) -> str | None:
    """Return the form of a graph's deformable convolutions in a runtime; None: none.

    Raises
    ------
    ValueError
        If the runtime has no form that is exact.
    """
    found = deformable_nodes(take_apart(graph.symbol)[0])
    if not found:
        return None
    whole = all(node.whole for node in found)
    for form in FORMS_OF[runtime]:
        if form != "dilated" or whole:
            return form
    possible = [name for name, forms in FORMS_OF.items() if forms]
    raise ValueError(
        f"{runtime} has no form of deformable convolution {found[0].name!r}; allowed: "
        f"{', '.join(possible)}"
    )


def in_form(graph: InferenceGraph, form: str | None) -> InferenceGraph:
    """Return a graph with its deformable convolutions in a form."""
    if form in (None, "deformable"):
        return graph
    if form == "dilated":
        pair = dilated(graph.symbol, graph.params)
    else:
        pair = sampled(graph.symbol, graph.params, graph.shape)
    return replace(graph, symbol=pair[0], params=pair[1])


def register_converters() -> None:
    """Teach MXNet's ONNX exporter the two operators that it does not know."""
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    MXNetGraph.register("_contrib_DeformableConvolution", 13)(_deform_conv)
    MXNetGraph.register("BilinearSampler", 13)(_grid_sample)


def _deform_conv(node: dict, **kwargs: Any) -> list:
    """Return ONNX's node for a deformable convolution without bias."""
    from mxnet.onnx.mx2onnx._op_translations._op_translations_opset12 import get_inputs
    from onnx.helper import make_node

    from gluon_compress.graph.context import attribute

    name, (data, offsets, weight, *_), attrs = get_inputs(node, kwargs)
    kernel = list(attribute(attrs, "kernel"))
    pads = list(attribute(attrs, "pad", (0, 0)))
    return [
        make_node(
            "DeformConv",
            [data, weight, offsets],
            [name],
            name=name,
            kernel_shape=kernel,
            strides=list(attribute(attrs, "stride", (1, 1))),
            dilations=list(attribute(attrs, "dilate", (1, 1))),
            pads=[*pads, *pads],
            group=attribute(attrs, "num_group", 1),
            offset_group=attribute(attrs, "num_deformable_group", 1),
        )
    ]


def _grid_sample(node: dict, **kwargs: Any) -> list:
    """Return ONNX's nodes for a bilinear sampling, whose grid has its axis last."""
    from mxnet.onnx.mx2onnx._op_translations._op_translations_opset12 import get_inputs
    from onnx.helper import make_node

    name, (data, grid), _ = get_inputs(node, kwargs)
    return [
        make_node("Transpose", [grid], [f"{name}_grid"], perm=[0, 2, 3, 1]),
        make_node(
            "GridSample",
            [data, f"{name}_grid"],
            [name],
            name=name,
            align_corners=1,
            mode="bilinear",
            padding_mode="zeros",
        ),
    ]
