"""Which channels of a net belong together: a net as a symbol with its channel groups.

``tracing`` makes a net a graph and a symbol a net again; ``nodes`` takes symbols apart;
``rules`` says what each operator does with channels; ``groups`` follows them through
the net; ``atoms`` remembers what must live or die together; ``names`` makes names that
every process gives.
"""

from gluon_compress.graph.groups import ChannelGroup, Groups, Tensor
from gluon_compress.graph.rules import RULES
from gluon_compress.graph.tracing import (
    FORMS,
    Form,
    Graph,
    Setting,
    block_of,
    form_of,
    pair_of,
    symbol_of,
    trace,
    trace_any,
)

__all__ = [
    "FORMS",
    "RULES",
    "ChannelGroup",
    "Form",
    "Graph",
    "Groups",
    "Setting",
    "Tensor",
    "block_of",
    "form_of",
    "pair_of",
    "symbol_of",
    "trace",
    "trace_any",
]
