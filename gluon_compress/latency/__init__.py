"""Predicts the latency of nets: fused blocks are timed once, and their times added.

``blocks`` finds the operators that MXNet times as one by default, ``measuring`` times
them, and ``table`` stores the times and adds them up. For edge runtimes,
``runtime_blocks`` finds what those fuse, ``block_nets`` makes nets that time it,
``runtime_table`` stores the times, and ``correction`` is what is fitted to whole nets;
``deployment.latency`` does the timing.
"""

from gluon_compress.latency.measuring import measure_blocks, nets_ms
from gluon_compress.latency.runtime_table import RuntimeTable, check_target
from gluon_compress.latency.table import LatencyTable, predict_latency

__all__ = [
    "LatencyTable",
    "RuntimeTable",
    "check_target",
    "measure_blocks",
    "nets_ms",
    "predict_latency",
]
