"""The state of an optimiser as plain arrays and numbers, for checkpoints.

MXNet stores it as a pickle, which can run any program when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from gluon_compress.storage.reading import finite
from gluon_compress.validation import (
    LONGEST_VALUE,
    CountOrZero,
    Settings,
    parse,
    shortened,
    shown,
    wrong,
)


class UpdateCounts(Settings):
    """What an optimiser counts.

    Parameters
    ----------
    optimizer : str
        Its class.
    num_update : int
        The largest number of updates of a parameter.
    updates : dict
        By number of the device, how often each parameter was updated there.
    m_schedule : float
        Of Nadam, the product of its momenta.
    """

    optimizer: str
    num_update: CountOrZero = 0
    updates: Dict[str, Tuple[CountOrZero, ...]] = {}
    m_schedule: float = 1.0


@dataclass(frozen=True)
class OptimizerState:
    """What a ``gluon.Trainer`` has learned about its parameters.

    Parameters
    ----------
    numbers : mapping
        JSON: the fields of ``UpdateCounts``. Empty: there is no state.
    arrays : mapping
        Array ``"i.j"`` is the j-th of parameter i, such as its momentum. Parameters
        that were not updated yet have none.
    averages : mapping
        Moving averages by the number of the parameter; none without ``ema``.
    """

    numbers: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    averages: Mapping[str, np.ndarray] = field(default_factory=dict)


def optimizer_state(trainer: gluon.Trainer) -> OptimizerState:
    """Return the state of a trainer that updates its parameters itself.

    On several devices it is that of the first.
    """
    _prepare(trainer)
    optimizer, updater = trainer.optimizer, trainer._updaters[0]
    arrays = {
        f"{index}.{i}": leaf.asnumpy()
        for index, state in sorted(updater.states.items())
        for i, leaf in enumerate(_leaves(state))
    }
    count = len(trainer._params)
    updates = {
        str(device): [counts.get(index, 0) for index in range(count)]
        for device, counts in sorted(optimizer._all_index_update_counts.items())
    }
    numbers = UpdateCounts(
        optimizer=type(optimizer).__name__,
        num_update=optimizer.num_update,
        updates=updates,
        m_schedule=float(getattr(optimizer, "m_schedule", 1.0)),
    )
    return OptimizerState(numbers.to_json(), arrays)


def check_optimizer_state(
    trainer: gluon.Trainer, state: OptimizerState, source: Any
) -> None:
    """Refuse a state that is not one of this trainer's; nothing is changed.

    Raises
    ------
    ValueError
        One line that starts with ``source`` and names what does not fit.
    """
    counts = parse(UpdateCounts, dict(state.numbers), source)
    name, params = type(trainer.optimizer).__name__, trainer._params
    if counts.optimizer != name:
        raise wrong(f"{source}: optimizer", counts.optimizer, f"{name}, as in this run")
    for device, updates in counts.updates.items():
        if not device.isdecimal() or len(device) > 3 or len(updates) != len(params):
            raise ValueError(
                f"{source}: optimizer.updates of device {shown(device)} has "
                f"{len(updates)} numbers; allowed: one for each of {len(params)}"
            )
    unused = set(state.arrays)
    for index, param in enumerate(params):
        if f"{index}.0" not in state.arrays:
            continue
        for i, leaf in enumerate(_new_leaves(trainer, index, param.list_data()[0])):
            key = f"{index}.{i}"
            stored = state.arrays.get(key, np.empty(0))
            if stored.shape != leaf.shape or stored.dtype != leaf.dtype:
                raise ValueError(
                    f"{source}: the optimiser's state of {param.name!r} is "
                    f"{stored.dtype} of shape {_text(stored.shape)}; allowed: "
                    f"{np.dtype(leaf.dtype)} of shape {leaf.shape}"
                )
            unused.discard(key)
    if unused:
        state_name = shown(min(unused))
        raise ValueError(f"{source}: state {state_name} belongs to no parameter")
    finite(state.arrays, source)


def set_optimizer_state(trainer: gluon.Trainer, state: OptimizerState) -> None:
    """Give a trainer a state that ``check_optimizer_state`` has accepted."""
    _prepare(trainer)
    counts, optimizer = UpdateCounts(**state.numbers), trainer.optimizer
    optimizer.num_update = counts.num_update
    optimizer._all_index_update_counts = {
        int(device): {index: n for index, n in enumerate(updates) if n}
        for device, updates in counts.updates.items()
    }
    optimizer._index_update_count = optimizer._all_index_update_counts.setdefault(0, {})
    if hasattr(optimizer, "m_schedule"):
        optimizer.m_schedule = counts.m_schedule
    for updater, device in zip(trainer._updaters, trainer._contexts):
        updater.states, updater.states_synced = {}, {}
        for index, param in enumerate(trainer._params):
            if f"{index}.0" not in state.arrays:
                continue  # MXNet makes it at the first update
            weight = param.data(device)
            new = optimizer.create_state_multi_precision(index, weight)
            for i, leaf in enumerate(_leaves(new)):
                leaf[:] = mx.nd.array(state.arrays[f"{index}.{i}"], dtype=leaf.dtype)
            updater.states[index], updater.states_synced[index] = new, True


def _prepare(trainer: gluon.Trainer) -> None:
    """Do what MXNet does before the first step, as its own ``save_states`` does."""
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._params_to_init:
        trainer._init_params()


def _new_leaves(trainer: gluon.Trainer, index: int, weight: mx.nd.NDArray) -> list:
    return _leaves(trainer.optimizer.create_state_multi_precision(index, weight))


def _leaves(state: Any) -> list[mx.nd.NDArray]:
    """Return the arrays of a state: one, none, or tuples of them."""
    if isinstance(state, (list, tuple)):
        return [leaf for part in state for leaf in _leaves(part)]
    return [] if state is None else [state]


def _text(shape: tuple) -> str:
    return shortened(str(shape), LONGEST_VALUE)
