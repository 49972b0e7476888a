"""Traces nets and finds channel groups: channels that are kept or removed together.

``tracing`` turns a net into a ``Graph`` and a symbol back into a net. ``symbols`` takes
symbols apart, ``operators`` is the table of operators, ``groups`` follows channels
through the net, and ``annotations`` writes masks and fake quantisers into a symbol and
looks through them.

Integers stand for six different things here:

- A **channel id** is one channel as one operator produced it. Tracing assigns ids and
  unites those that must be kept together; a negative id encodes why a channel always
  stays.
- A **component** is a set of united ids, named by its smallest id; only ``groups`` uses
  it.
- An **index** is one component of a group that can be kept or removed, counted from 0
  in each group. Plans contain indices.
- A **position** is an index counted through all groups of a graph: group ``g`` begins
  at ``graph.grouping.starts[g]``. ``Tensor.positions`` has one for each channel
  of a tensor, and ``Graph.keep_mask`` says for each position whether it is kept.
- A **level** numbers the widths that a group may have, see ``plan``.
- A **group number** counts the groups of a graph, in the order of ``graph.groups``.
"""

from gluon_compress.graph.annotations import AnnotationParameter, NewAnnotation
from gluon_compress.graph.channels import Tensor
from gluon_compress.graph.groups import ChannelGroup, Grouping
from gluon_compress.graph.operators import OPERATORS, Operator
from gluon_compress.graph.structure import structure_of
from gluon_compress.graph.tracing import (
    NET_ADAPTERS,
    Graph,
    NetAdapter,
    ParamAttrs,
    adapter_of,
    annotate,
    block_of,
    give_value,
    input_shape,
    inputs_of,
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
    "Grouping",
    "NetAdapter",
    "NewAnnotation",
    "Operator",
    "ParamAttrs",
    "Tensor",
    "adapter_of",
    "annotate",
    "block_of",
    "give_value",
    "input_shape",
    "inputs_of",
    "pair_of",
    "rebuild",
    "register_adapter",
    "structure_of",
    "symbol_of",
    "trace",
]
