"""Predicts the latency of nets: fused blocks are timed once, and their times added.

``blocks`` finds the operators that are timed as one, ``measuring`` times them, and
``table`` stores the times and adds them up.
"""

from gluon_compress.latency.measuring import measure_blocks, nets_ms
from gluon_compress.latency.table import LatencyTable, predict_latency

__all__ = ["LatencyTable", "measure_blocks", "nets_ms", "predict_latency"]
