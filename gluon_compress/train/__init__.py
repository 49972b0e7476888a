"""Trains any net, with checkpoints and exact resume.

``loop`` is the training loop, ``hooks`` what accompanies it, ``schedule`` its settings,
``run`` its state (trainer, progress, log), and ``checkpoint`` the file that stores it.
"""

from gluon_compress.train.hooks import Hooks, Position, SeveralHooks, hooked
from gluon_compress.train.log import LOG, read_log
from gluon_compress.train.loop import fit, load_best
from gluon_compress.train.run import BEST, LAST, Diverged, Options, Progress
from gluon_compress.train.schedule import DECAYS, Schedule, learning_rate

__all__ = [
    "BEST",
    "DECAYS",
    "LAST",
    "LOG",
    "Diverged",
    "Hooks",
    "Options",
    "Position",
    "Progress",
    "Schedule",
    "SeveralHooks",
    "fit",
    "hooked",
    "learning_rate",
    "load_best",
    "read_log",
]
