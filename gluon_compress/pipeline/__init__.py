"""The main job: from a recipe to an exported, evaluated compact detector, in stages.

``run`` goes through the stages, ``decide`` only plans, ``structure`` builds what was
decided, ``judge`` measures any net on a recipe's images; ``stages`` says what each
stage does; ``job`` holds what they work with: the recipe, its data, the untrained nets.
"""

from gluon_compress.pipeline.run import TASKS, decide, judge, run, structure

__all__ = ["TASKS", "decide", "judge", "run", "structure"]
