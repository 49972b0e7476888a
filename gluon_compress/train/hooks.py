"""What accompanies a training: state that moves with it, and terms of its loss.

A compression algorithm whose state lives over a training (scales, masks, moving
ranges, a schedule) is a ``Hooks``. Its state is in parameters of the net, trained or
not, and in nothing else: checkpoints hold these, so a resumed run is exact. What
depends on time is a function of ``Position``, which checkpoints hold too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Sequence

from mxnet import autograd


@dataclass(frozen=True)
class Position:
    """How far a training has got.

    Parameters
    ----------
    step : int
        Updates so far.
    epoch : float
        Epochs so far; 2.5 is the middle of the third.
    epochs : int
        Length of the training.
    """

    step: int
    epoch: float
    epochs: int

    @property
    def share(self) -> float:
        """The share of the training that is done, from 0 to 1."""
        return min(self.epoch / self.epochs, 1.0) if self.epochs else 1.0


class Hooks:
    """What accompanies the training of one net. Every method may be left as it is.

    To keep resuming exact, methods may change nothing but parameters of the net, and
    may depend on these, their arguments, settings and MXNet's random numbers alone.
    """

    def begin_epoch(self, position: Position) -> bool | None:
        """Do what is due before the first step of an epoch, such as a new mask.

        Returns
        -------
        bool or None
            True: the net is another one now, so that earlier validations do not count.
        """
        return None

    def begin_step(self, position: Position) -> None:
        """Note how far the training has got, for ``loss``; nothing else may change."""

    def see(self, images: Any) -> None:
        """Look at the images of a step, before its loss is computed; not recorded.

        What it changes for this step alone, ``end_step`` has to change back.
        """

    def loss(self) -> Any:
        """Return a term of the loss, an array of one element; None: there is none.

        It is called under ``autograd.record``.
        """
        return None

    def end_step(self, position: Position) -> None:
        """Do what is due after an update of the parameters."""

    def finished(self, net: Any) -> Any:
        """Return the net as it is kept after the training, a new one or the same."""
        return net


class SeveralHooks(Hooks):
    """Several hooks as one; they are called in their order.

    Parameters
    ----------
    hooks : sequence of Hooks
    """

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self.hooks = tuple(hooks)

    def begin_epoch(self, position: Position) -> bool:
        """Begin an epoch in all; tell whether any of them makes another net."""
        changed = [hook.begin_epoch(position) for hook in self.hooks]
        return any(changed)

    def begin_step(self, position: Position) -> None:
        """Begin a step in all."""
        for hook in self.hooks:
            hook.begin_step(position)

    def see(self, images: Any) -> None:
        """Show all of them the images."""
        for hook in self.hooks:
            hook.see(images)

    def loss(self) -> Any:
        """Return the sum of all terms, None if there is none."""
        terms = [hook.loss() for hook in self.hooks]
        terms = [term for term in terms if term is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def end_step(self, position: Position) -> None:
        """End a step in all."""
        for hook in self.hooks:
            hook.end_step(position)

    def finished(self, net: Any) -> Any:
        """Return the net as all of them keep it, in their order."""
        for hook in self.hooks:
            net = hook.finished(net)
        return net


def hooked(hooks: Hooks, batches: int, *, part: str) -> Dict[str, Any]:
    """Return hooks as the arguments of ``StageContext.fit``.

    Parameters
    ----------
    hooks : Hooks
    batches : int
        Of an epoch.
    part : str
        Name of the hooks' term of the loss in the log.

    Returns
    -------
    dict
        ``callbacks``, ``start_callbacks``, ``step_callbacks`` and ``wrap``.
    """

    def position(progress: Any, done: int) -> Position:
        return Position(progress.step, progress.epoch + done / batches, progress.epochs)

    def begin(net: Any, progress: Any) -> None:
        if hooks.begin_epoch(position(progress, 0)):
            progress.best = progress.best_epoch = None

    def start(net: Any, progress: Any) -> None:
        hooks.begin_step(position(progress, progress.batch))

    def end(net: Any, progress: Any) -> None:
        hooks.end_step(position(progress, progress.batch + 1))

    def wrap(step_loss: Callable) -> Callable:
        def step(net: Any, batch: Sequence) -> tuple:
            with autograd.pause():
                hooks.see(batch[0])
            loss, parts = step_loss(net, batch)
            term = hooks.loss()
            if term is None:
                return loss, parts
            return loss + term.reshape(loss.shape), {**parts, part: term}

        return step

    return {
        "callbacks": [begin],
        "start_callbacks": [start],
        "step_callbacks": [end],
        "wrap": wrap,
    }
