"""Trains any net, with checkpoints and exact resume.

``loop`` is the training loop, ``schedule`` its settings, ``run`` its state (trainer,
progress, log), and ``checkpoint`` the file that stores the state.
"""

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
    "Options",
    "Progress",
    "Schedule",
    "fit",
    "learning_rate",
    "load_best",
    "read_log",
]
