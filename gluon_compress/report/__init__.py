"""Reports on a compression: charts, drawn detections, tables and an HTML page.

Nothing is measured here; every figure is passed in.
"""

from gluon_compress.report.anchor_charts import (
    AnchorColumn,
    anchor_chart,
    anchor_table,
)
from gluon_compress.report.boxes import Boxes, draw
from gluon_compress.report.charts import Point, pareto
from gluon_compress.report.page import Page, Picture, Table, html
from gluon_compress.report.pictures import (
    Example,
    Tile,
    detections,
    gallery,
    is_drawn,
    save_image,
)
from gluon_compress.report.plan_charts import kept_chart, plan_chart, sensitivity_chart
from gluon_compress.report.search_charts import read_search_log, search_chart
from gluon_compress.report.split_charts import split_chart
from gluon_compress.report.tables import (
    Figures,
    cost_table,
    plan_table,
    precision_table,
)
from gluon_compress.report.training_curves import curves, part_curves

__all__ = [
    "AnchorColumn",
    "Boxes",
    "Example",
    "Figures",
    "Page",
    "Picture",
    "Point",
    "Table",
    "Tile",
    "anchor_chart",
    "anchor_table",
    "cost_table",
    "curves",
    "part_curves",
    "detections",
    "draw",
    "gallery",
    "html",
    "is_drawn",
    "kept_chart",
    "pareto",
    "plan_chart",
    "plan_table",
    "precision_table",
    "save_image",
    "read_search_log",
    "search_chart",
    "sensitivity_chart",
    "split_chart",
]
