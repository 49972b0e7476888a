"""Runs independent tasks: here one after the other, or on a Dask cluster.

``tasks`` is what others call. ``cluster`` alone knows Dask, which is needed for nothing
else; ``worker`` is what runs on its workers.
"""

from gluon_compress.sweeps.tasks import (
    Announced,
    Sweep,
    TaskOutcome,
    announcing,
    run_tasks,
)

__all__ = ["Announced", "Sweep", "TaskOutcome", "announcing", "run_tasks"]
