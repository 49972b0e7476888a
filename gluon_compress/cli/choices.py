"""Names that ``--help`` lists and options take, importable without MXNet.

The data sets' rows need more than that to import; a test compares both.
"""

from __future__ import annotations

from gluon_compress.deployment.formats import CALIBRATIONS as CALIBRATIONS
from gluon_compress.deployment.formats import FORMATS as _FORMATS
from gluon_compress.deployment.runtimes import RUNTIMES as _RUNTIMES

RUNTIMES, FORMATS = tuple(_RUNTIMES), tuple(_FORMATS)
PRECISIONS = tuple(sorted({row.precision for row in _FORMATS.values()}))
DATASETS = ("voc2007", "voc2012", "coco", "bccd", "imagenette")
