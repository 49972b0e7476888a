"""What a distillation loss is: what it computes from, its settings, and its row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from mxnet.ndarray import NDArray as Array

from gluon_compress.validation import NoSettings, Settings


@dataclass(frozen=True)
class Pair:
    """What a loss may look at: both nets' outputs by name, and the batch.

    Parameters
    ----------
    student, teacher : mapping
        Output name to array; feature maps too, under the names in ``taps``.
    batch : sequence of NDArray
        Images, then targets.
    taps : tuple of str
        Feature maps that both nets give.
    context : mapping
        What the family adds, see ``Family.loss_context``.
    """

    student: Mapping[str, Array]
    teacher: Mapping[str, Array]
    batch: Sequence[Array]
    taps: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)

    def maps(self) -> list[tuple[Array, Array]]:
        """Return the student's and the teacher's feature map of each tap."""
        return [(self.student[name], self.teacher[name]) for name in self.taps]


@dataclass(frozen=True)
class DistillationLoss:
    """One row of ``LOSSES``.

    Parameters
    ----------
    compute : callable
        ``compute(pair, settings) -> NDArray`` of one element.
    needs : tuple of str
        Outputs that both nets must have.
    on_maps : bool
        Whether it compares feature maps, so that it needs at least one tap.
    Config : type
        Its settings, a class of ``Settings``; the fields are keys of a recipe's
        ``distillation``.
    kind : str or tuple of str, optional
        The families it is for; None: any.
    check : callable, optional
        ``check(taps, context)`` raises ValueError where the loss cannot be computed.
    """

    compute: Callable[[Pair, Any], Array]
    needs: tuple[str, ...] = ()
    on_maps: bool = False
    Config: type[Settings] = NoSettings
    kind: str | tuple[str, ...] | None = None
    check: Callable | None = None

    def is_for(self, kind: str) -> bool:
        """Return whether it is for nets of a family."""
        kinds = (self.kind,) if isinstance(self.kind, str) else self.kind
        return kinds is None or kind in kinds

    def settings(self, source: Any) -> Any:
        """Return the loss's settings from a mapping or object that may hold more."""
        values = source if isinstance(source, Mapping) else _attributes(source)
        names = set(self.Config.model_fields)
        return self.Config(**{k: v for k, v in values.items() if k in names})


def _attributes(source: Any) -> dict[str, Any]:
    return {} if source is None else dict(vars(source))
