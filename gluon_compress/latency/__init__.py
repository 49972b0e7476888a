"""Latency before a net exists: units timed once, interpolated and added up.

``units`` says which operators are timed as one, ``table`` holds the times and what
they add to, ``measuring`` takes them.
"""

from gluon_compress.latency.measuring import measure_units, nets_ms
from gluon_compress.latency.table import LatencyTable, predict_latency

__all__ = ["LatencyTable", "measure_units", "nets_ms", "predict_latency"]
