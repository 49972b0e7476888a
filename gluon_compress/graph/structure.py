"""A text that tells nets apart whose parameters have the same shapes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gluon_compress.graph.symbols import take_apart
from gluon_compress.graph.tracing import symbol_of


def structure_of(net: Any) -> str:
    """Return a hash of a net's operators, their attributes and how they are joined.

    Names are left out, since they contain counters of the process. So quantisers of
    other bits or ranges, masks of another kind or another order of annotations make
    another structure, whatever the values of parameters. Versions of variables are left
    out as well: they count how often statistics were written.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    nodes, heads = take_apart(symbol_of(net))
    rows = [
        [
            node["op"],
            sorted((k, v) for k, v in node["attrs"].items() if not k.startswith("__")),
            [entry[:2] for entry in node["inputs"]],
        ]
        for node in nodes
    ]
    text = json.dumps([rows, [head[:2] for head in heads]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
