"""Names of nodes and groups that are the same in every process."""

from __future__ import annotations

import re
from typing import Sequence

# Kind and number of a block, and the rest of the name. Few kinds have an underscore.
NUMBERED = re.compile(r"((?:modulated_)?deformable_conv|[^_]*?)(\d*)((?:_.*)?)")


def structural_names(names: Sequence[str]) -> list[str]:
    """Return names that do not depend on how many nets a process has built.

    Gluon numbers prefixes by kind ("resnetv1d3_"). The numbers are replaced by the
    order of appearance, so that the first of a kind is always 0.
    """
    numbers: dict[str, dict[str, int]] = {}
    result = []
    for name in names:
        match = NUMBERED.fullmatch(name)
        assert match is not None, name
        kind, digits, rest = match.groups()
        if kind and digits:
            order = numbers.setdefault(kind, {})
            digits = f"{order.setdefault(digits, len(order))}"
        result.append(re.sub("_fwd$", "", kind + digits + rest))
    return result


def unused(name: str, used: set) -> str:
    """Return the name, with a number if another group has it already."""
    unique, number = name, 1
    while unique in used:
        number += 1
        unique = f"{name}.{number}"
    used.add(unique)
    return unique
