"""Nets in edge runtimes: files of every format, checked, and predictors that run them.

``deploy`` puts a folder together, ``Predictor`` runs it. To add a runtime, see
``runtimes``; to add a file format, see ``formats``. A family of nets states how images
come in and results come out; nothing here knows more of it than that.
"""

from gluon_compress.deployment.deploying import deploy
from gluon_compress.deployment.fold import fold
from gluon_compress.deployment.formats import FORMATS
from gluon_compress.deployment.predictor import Predictor
from gluon_compress.deployment.runtimes import RUNTIMES, fused

__all__ = ["FORMATS", "RUNTIMES", "Predictor", "deploy", "fold", "fused"]
