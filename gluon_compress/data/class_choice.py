"""The classes that a data set gives, and what becomes of all others."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any, Callable, Collection, Sequence

from gluon_compress.validation import few, shown

OTHERS = ("error", "ignore")
MOST_NAMES = 10  # of classes, in a message


def as_name(text: str) -> str:
    """Return the name of a class without spaces around it, its letters composed.

    Systems encode letters such as "é" in two ways, which look the same.
    """
    return unicodedata.normalize("NFC", text.strip())


class ClassChoice:
    """Class names by id, and counts of what belongs to other classes.

    Parameters
    ----------
    names : sequence of str
        In the order of the ids.
    others : str
        What to do with an object of another class: ``error``, or ``ignore`` it.

    Attributes
    ----------
    objects : Counter
        How many objects of each other class are ignored.
    images : int
        How many images are left out because they hold none of the classes.
    absent : tuple of str
        Classes that the split has no object of.

    Raises
    ------
    ValueError
        If ``others`` is neither, or a class is named twice.
    """

    def __init__(self, names: Sequence[str], others: str) -> None:
        if others not in OTHERS:
            raise ValueError(f"others is {others!r}; allowed: {', '.join(OTHERS)}")
        self.names, self.others = tuple(map(as_name, names)), others
        self.objects: Counter = Counter()
        self.images = 0
        self.absent: tuple[str, ...] = ()
        self._ids = {name: i for i, name in enumerate(self.names)}
        if len(self._ids) < len(self.names):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise ValueError(f"classes: class {twice!r} is there twice")

    @property
    def ignores(self) -> bool:
        """Whether objects of other classes are ignored."""
        return self.others == "ignore"

    @property
    def counts(self) -> dict[str, Any]:
        """What a result says of the choice; empty if it made no difference.

        ``ignored``: ``objects`` of other classes by class, and the number of ``images``
        that hold nothing else. ``absent``: classes without an object.
        """
        counts: dict[str, Any] = {}
        if self.objects or self.images:
            objects = dict(sorted(self.objects.items()))
            counts["ignored"] = {"objects": objects, "images": self.images}
        if self.absent:
            counts["absent"] = list(self.absent)
        return counts

    def id_of(self, name: str, place: Any, objects: int = 1) -> int | None:
        """Return the id of an object's class; None, counted, if it is to be ignored.

        Parameters
        ----------
        name : str
        place : path
            Where it says so, for the error.
        objects : int
            How many objects these are.

        Raises
        ------
        ValueError
            If it is another class and none may be ignored.
        """
        name = as_name(name)
        if name in self._ids:
            return self._ids[name]
        if not self.ignores:
            raise ValueError(
                f"{place}: class {shown(name)}; allowed: "
                f"{few(self.names, MOST_NAMES)}; "
                '"others": "ignore" (--others ignore) leaves all other classes out'
            )
        self.objects[name] += objects
        return None

    def check(
        self,
        ids: Sequence[int],
        images: int,
        place: Any,
        in_whole_set: Callable[[], Collection[str]] | None,
    ) -> None:
        """Refuse a choice that leaves nothing, or names a class by mistake.

        Sets ``absent``.

        Parameters
        ----------
        ids : sequence of int
            Classes of all objects in the split.
        images : int
            How many images are left.
        place : path
            Of the split, for the error.
        in_whole_set : callable or None
            Returns the classes of all splits; called only if this one lacks a class.
            None: a class may be missing.

        Raises
        ------
        ValueError
            If others are ignored, and no image is left or a class occurs nowhere.
        """
        present = set(ids)
        self.absent = tuple(n for i, n in enumerate(self.names) if i not in present)
        if not self.ignores:
            return
        if self.absent and in_whole_set is not None:
            everywhere = sorted(in_whole_set())
            for name in self.absent:
                if name not in everywhere:
                    raise ValueError(
                        f"{place}: class {shown(name)} is nowhere in the set; allowed: "
                        f"{few(everywhere, MOST_NAMES)}"
                    )
        if not images:
            raise ValueError(
                f"{place}: none of {self.images} images holds an object of "
                f"{few(self.names, MOST_NAMES)}"
            )
