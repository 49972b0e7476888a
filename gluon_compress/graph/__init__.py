"""Channel groups: which channels of a net must be kept or removed together.

``tracing`` turns a net into a ``Graph`` and a symbol back into a net. ``symbols`` takes
symbols apart, ``operators`` is the table of what each operator does, ``groups`` follows
channels through the net by it, ``annotations`` writes masks and fake quantisers into a
symbol and looks through them.

Whole numbers stand for six different things here:

- A **channel id** is one channel as one operator produced it. Tracing hands ids out and
  unites those that share their fate; below 0 it encodes why a channel always stays.
- A **component** is a set of united ids, named by its smallest id. It exists only while
  groups are being found.
- An **index** is one component of a group that can be kept or removed, counted from 0
  in each group. Plans hold indices.
- A **position** is an index counted through all groups of a graph: group ``g`` begins
  at ``graph.found.starts[g]``. ``Tensor.positions`` are those of a tensor's channels,
  and ``Graph.keep_mask`` says by position what is kept.
- A **level** is a choice among the widths that a group may have, see ``plan``.
- A **group number** counts the groups of a graph, in the order of ``graph.groups``.
"""

from gluon_compress.graph.annotations import AnnotationParameter, NewAnnotation
from gluon_compress.graph.channels import Tensor
from gluon_compress.graph.groups import ChannelGroup, Groups
from gluon_compress.graph.operators import OPERATORS, Operator
from gluon_compress.graph.tracing import (
    NET_ADAPTERS,
    Graph,
    NetAdapter,
    ParamAttrs,
    adapter_of,
    annotate,
    block_of,
    input_shape,
    pair_of,
    rebuild,
    register_adapter,
    symbol_of,
    trace,
)

__all__ = [
    "NET_ADAPTERS",
    "OPERATORS",
    "AnnotationParameter",
    "ChannelGroup",
    "Graph",
    "Groups",
    "NetAdapter",
    "NewAnnotation",
    "Operator",
    "ParamAttrs",
    "Tensor",
    "adapter_of",
    "annotate",
    "block_of",
    "input_shape",
    "pair_of",
    "rebuild",
    "register_adapter",
    "symbol_of",
    "trace",
]
