"""What a compression did, for the eye: charts, drawn detections, tables, one page.

Every figure comes in as a value; nothing is measured here.
"""

from gluon_compress.report.charts import Point, curves, pareto, plan_chart, read_log
from gluon_compress.report.page import (
    Figures,
    Page,
    Picture,
    cost_html,
    cost_table,
    html,
)
from gluon_compress.report.pictures import (
    Boxes,
    Example,
    detections,
    draw,
    save_image,
)

__all__ = [
    "Boxes",
    "Example",
    "Figures",
    "Page",
    "Picture",
    "Point",
    "cost_html",
    "cost_table",
    "curves",
    "detections",
    "draw",
    "html",
    "pareto",
    "plan_chart",
    "read_log",
    "save_image",
]
