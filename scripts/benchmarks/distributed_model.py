"""A model of a distributed training step: what it costs by keys, bytes and bandwidth.

A step is computing, then the exchange of gradients. Both are work of processors::

    worker = compute(images) + a_w + k_w * keys + b_w * bytes
    server = ranks * (a_s + k_s * keys + b_s * bytes)

with the servers' work that of all servers together, the scheduler and the hub. On one
machine nothing else takes time. Between machines, bytes also pass a network, which has
the same bandwidth for all and each way at once::

    network = (pushed + pulled) * (machines - 1) / machines / bandwidth

Each machine has one worker, and one server for its share of the parameters. Nothing is
assumed to overlap: MXNet begins to send a gradient while others are computed, so that a
real step is faster if anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np

LEAST = 1e-6  # seconds that can be told from none
GBIT = 1e9 / 8  # bytes a second
# Bytes that are pushed and pulled for a number, by the way of adding.
BYTES = {"plain": (4, 4), "exact": (8, 8), "2bit": (0.25, 4)}


@dataclass(frozen=True)
class Costs:
    """Seconds of work: for a step, for each key in it, and for each byte."""

    step: float
    key: float
    byte: float

    def of(self, keys: int, size: float) -> float:
        """Return the seconds for so many keys and bytes."""
        return self.step + self.key * keys + self.byte * size

    @classmethod
    def fitted(
        cls, rows: Sequence[tuple[int, float]], seconds: Sequence[float]
    ) -> Costs:
        """Fit costs to (keys, bytes) and seconds, none below 0, relative errors least.

        Rows are weighed by their seconds, so that small ones count as much as large.
        """
        from scipy.optimize import nnls

        times = np.maximum(np.asarray(seconds, float), LEAST)
        design = np.array([[1.0, keys, size] for keys, size in rows])
        scale = design.max(axis=0)
        values, _ = nnls(design / scale / times[:, None], np.ones(len(times)))
        return cls(*(values / scale))


@dataclass(frozen=True)
class Model:
    """Costs of one way of adding gradients, for workers and for servers."""

    worker: Costs
    server: Costs

    @classmethod
    def fitted(cls, way: str, rows: Sequence[Mapping[str, Any]]) -> Model:
        """Fit a model to measured exchanges.

        Parameters
        ----------
        way : str
            A key of ``BYTES``.
        rows : sequence of mappings
            ``ranks``, ``keys``, ``numbers``, and seconds of CPU time of a step:
            ``worker``, the mean over ranks, and ``server``, of all servers and the hub.
        """
        sizes = [(row["keys"], row["numbers"] * sum(BYTES[way])) for row in rows]
        worker = [row["worker"] for row in rows]
        server = [row["server"] / row["ranks"] for row in rows]
        return cls(Costs.fitted(sizes, worker), Costs.fitted(sizes, server))

    def step(
        self, way: str, ranks: int, keys: int, numbers: int, compute: float
    ) -> dict[str, float]:
        """Return the seconds of work of a step, on one machine."""
        size = numbers * sum(BYTES[way])
        worker = compute + self.worker.of(keys, size)
        server = ranks * self.server.of(keys, size)
        return {"worker": worker, "server": server, "work": ranks * worker + server}

    def wall(self, work: Mapping[str, float], ranks: int, cores: int) -> float:
        """Return the seconds of a step whose processes share so many cores.

        Workers take turns on the cores; the server works while they wait for it.
        """
        return math.ceil(ranks / cores) * work["worker"] + work["server"]

    def seconds(
        self,
        way: str,
        machines: int,
        keys: int,
        numbers: int,
        compute: float,
        gbits: float,
    ) -> float:
        """Return the seconds of a step on machines that a network connects."""
        if machines == 1:
            return compute
        size = numbers * sum(BYTES[way])
        # The server of a machine has 1 / machines of the keys and bytes of each rank.
        processors = self.worker.of(keys, size) + self.server.of(keys, size)
        network = size * (machines - 1) / machines / (gbits * GBIT)
        return compute + processors + network


def efficiency(compute: float, step: float) -> float:
    """Return the share of a step in which a machine computes."""
    return compute / step


def hours(
    model: Model, way: str, machines: int, recipe: Mapping[str, Any], gbits: float
) -> float:
    """Return the hours of a recipe on machines, its batches divided among them.

    Parameters
    ----------
    model : Model
    way : str
    machines : int
    recipe : mapping
        ``hours`` on one machine, ``steps``, ``keys`` and ``numbers`` of its net.
    gbits : float
        Of the network, Gbit/s.
    """
    compute = recipe["hours"] * 3600 / recipe["steps"] / machines
    step = model.seconds(
        way, machines, recipe["keys"], recipe["numbers"], compute, gbits
    )
    return recipe["steps"] * step / 3600
