"""The main job: from a recipe to an exported, evaluated compact detector, in stages.

``run`` goes through the stages, ``decide`` only plans; ``stages`` says what each does;
``job`` holds what they work with: the recipe, its data, the untrained nets.
"""

from gluon_compress.pipeline.run import decide, run

__all__ = ["decide", "run"]
