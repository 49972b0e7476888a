"""Trains on several processes and machines through MXNet's parameter server.

``launching`` begins the processes and ends them together; ``members`` is what each of
them knows of the others, through the ``hub``; ``sums`` adds their gradients. A process
that no launcher began is alone, and nothing of this costs it anything.
"""

from gluon_compress.distributed.launching import Launch, Outcome, lead, take
from gluon_compress.distributed.members import (
    ALONE,
    SCRATCH,
    Member,
    Ranks,
    digest,
    is_launched,
    program,
    ranks,
)
from gluon_compress.distributed.places import place_of, read_hosts

__all__ = [
    "ALONE",
    "Launch",
    "SCRATCH",
    "Member",
    "Outcome",
    "Ranks",
    "digest",
    "is_launched",
    "lead",
    "place_of",
    "program",
    "ranks",
    "read_hosts",
    "take",
]
