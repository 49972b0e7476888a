"""The training loop: steps, checkpoints, and a resume that repeats nothing.

``schedule`` says how long and how fast; ``loop`` takes the steps; ``run`` is what lies
between them: trainer, position, log; ``checkpoint`` is the file that holds it all.
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
