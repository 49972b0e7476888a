"""What of a classifier runs outside Gluon, and how to read it."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from gluon_compress.graph import pair_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.postprocess.softmax import OUTPUT


def inference_graph(net: Any) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return the graph from images to ``class_scores`` ``(B, C)``, and its parameters.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Initialised; left as it is.
    """
    symbol, params = pair_of(net)
    nodes, heads = take_apart(symbol)
    nodes[heads[0][0]]["name"] = OUTPUT
    return put_together(nodes, heads), params
