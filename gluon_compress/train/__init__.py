"""The only training loop: steps, checkpoints, and a resume that repeats nothing.

``loop`` takes the steps; ``run`` is what lies between them: trainer, position, log;
``checkpoint`` is the file that holds it all.
"""

from gluon_compress.train.loop import fit, learning_rate, load_best
from gluon_compress.train.run import BEST, LAST, LOG, Diverged, Options, Progress

__all__ = [
    "BEST",
    "LAST",
    "LOG",
    "Diverged",
    "Options",
    "Progress",
    "fit",
    "learning_rate",
    "load_best",
]
