"""What the sets of experiments with detectors are there to compare."""

# (net, net, least difference of their mAP at IoU 0.5 in points; 0: any above it).
TARGETS = (
    ("compact_distilled", "mobilenet", 3.2),
    ("compact_distilled", "lite", 3.2),
    ("compact_distilled", "full", -1.0),
    ("compact_distilled", "mobilenet_again", 3.2),
    ("compact_distilled", "lite_again", 3.2),
    ("compact_distilled", "full_again", -1.0),
    ("compact_s_distilled", "mobilenet", 0.0),
    ("compact_s_distilled", "lite", 0.0),
    ("compact_s_distilled", "mobilenet_again", 0.0),
    ("compact_s_distilled", "lite_again", 0.0),
    ("compact_distilled", "compact_tuned", 0.0),
    ("compact_s_distilled", "compact_s_tuned", 0.0),
)

# What fits a pattern is shown against the net that lacks what sets it apart.
BASES = {
    "full_again": "mobilenet_again",
    "compact_trunk_first": "compact_distilled",
    "compact_s_trunk_first": "compact_s_distilled",
    "compact_trunk_first_short": "compact_distilled",
    "compact_distilled": "compact_self_taught",
    "compact_s_distilled": "compact_s_self_taught",
    "compact_self_taught": "compact_tuned",
    "compact_s_self_taught": "compact_s_tuned",
    "compact_scratch": "compact_tuned",
    "compact_s_scratch": "compact_s_tuned",
    "losses_*": "losses_none",
    "keep_*": "losses_scores_boxes_features",
}
