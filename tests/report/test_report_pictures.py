from __future__ import annotations

import json

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from gluon_compress import Plan, report, trace
from gluon_compress.plan import Sensitivity
from gluon_compress.report import (
    Boxes,
    Example,
    Point,
    Tile,
    charts,
    gallery,
    plan_charts,
    training_curves,
)
from gluon_compress.report.boxes import PALETTE, colour, label_of
from gluon_compress.report.charts import LINES, frontier, name_points
from gluon_compress.report.plan_charts import KEPT
from gluon_compress.report.training_curves import _lines as curve_lines
from gluon_compress.report.training_curves import best_of
from nets import SHAPE, ready, wide

CLASSES = ("cat", "dog", "bird")
GREY = np.full((60, 80, 3), 120, np.uint8)


def read(path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def has(image: np.ndarray, rgb) -> np.ndarray:
    """Return where an image has a colour."""
    return (image == np.array(rgb, np.uint8)).all(axis=-1)


def same(ink, other) -> bool:
    return to_hex(ink) == to_hex(other)


def log_of(path, epochs: int = 3, batches: int = 4, tail: str = ""):
    lines = []
    for epoch in range(epochs):
        for batch in range(batches):
            step = epoch * batches + batch
            record = {"kind": "step", "epoch": epoch, "step": step, "lr": 0.1}
            lines.append({**record, "loss": 5.0 / (step + 1), "parts": {}})
        lines.append({"kind": "validation", "epoch": epoch + 1, "mAP": epoch / 10})
    path.write_text("\n".join(map(json.dumps, lines)) + "\n" + tail)
    return path


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Return the list of figures that charts draw; none is written."""
    figures: list[Figure] = []
    for module in (charts, plan_charts, training_curves):
        monkeypatch.setattr(module, "save_figure", lambda f, path: figures.append(f))
    return figures


# ---------------------------------------------------------------- plan chart


def bars(axes, ink: str) -> list[float]:
    """Return the lengths of the bars of a colour, from the top down."""
    return [p.get_width() for p in axes.patches if same(p.get_facecolor(), ink)]


def row(name: str, **values) -> dict:
    return {"name": name, "width": 4, "kept": 4, "frozen": "", **values}


def test_bar_is_as_long_as_the_share_that_is_kept(drawn):
    graph = trace(ready(wide()), SHAPE)
    report.plan_chart(graph, Plan({"conv1": range(40)}), "unused.png")
    shares = dict(zip((g.name for g in graph.groups), bars_of_all(drawn[0].axes[0])))
    width = {g.name: g.width for g in graph.groups}
    assert shares.pop("conv1") == pytest.approx(100 * 40 / width["conv1"])
    assert set(shares.values()) == {100}


def bars_of_all(axes) -> list[float]:
    """Return the lengths of all bars but the grey ones behind them."""
    behind = plan_charts.GONE
    return [p.get_width() for p in axes.patches if not same(p.get_facecolor(), behind)]


def test_frozen_and_protected_groups_have_colours_of_their_own(drawn):
    rows = [row("a"), row("b", held="first layer"), row("c", frozen="an output")]
    report.kept_chart(rows, "unused.png", title="n")
    axes = drawn[0].axes[0]
    for ink in (KEPT, plan_charts.PROTECTED, plan_charts.FROZEN):
        assert bars(axes, ink) == [100]
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["kept", "protected", "frozen", "removed"]


def test_savings_are_drawn_where_they_are_known(drawn):
    rows = [
        row("a", kept=2, macs_saved=0.75, bytes_saved=0.5),
        row("b", kept=2, macs_saved=0.25, bytes_saved=0.5),
    ]
    report.kept_chart(rows, "unused.png", title="n")
    assert bars(drawn[0].axes[1], plan_charts.MACS) == [75, 25]
    assert bars(drawn[0].axes[1], plan_charts.BYTES) == [50, 50]
    report.kept_chart([row("a"), row("b")], "unused.png", title="n")
    assert not any(bars(drawn[1].axes[1], plan_charts.MACS))


@pytest.mark.parametrize("count", [2, 30])
def test_texts_of_the_plan_chart_stay_apart(drawn, monkeypatch, count):
    rows = []
    for i in range(count):
        name = f"net_a_rather_long_name_of_a_stage{i}_conv{i}"
        frozen = f"network output {i} (some_reshape{i})" if i % 3 == 0 else ""
        held = "first layer, protected unless ends=True" if i % 3 == 1 else ""
        rows.append(row(name, width=2048, kept=2048, frozen=frozen, held=held))
        rows[-1].update(macs_saved=0.0, bytes_saved=0.0)
    report.kept_chart(rows, "unused.png", title="net")
    assert covered(drawn[0], monkeypatch) == []


@pytest.mark.parametrize("count", [1, 5, 26])
def test_texts_of_the_sensitivity_chart_stay_apart(drawn, monkeypatch, count):
    report.sensitivity_chart(curves_of(count), "unused.png")
    assert covered(drawn[0], monkeypatch) == []


def drawn_texts(figure: Figure, monkeypatch) -> list[tuple[str, tuple]]:
    """Return the texts that are drawn, a hidden tick's is none, and their boxes."""
    draw, found = Text.draw, {}

    def noted(text, renderer, *arguments, **options) -> None:
        box = tuple(text.get_window_extent(renderer).extents.round(1))
        if text.get_text() and text.get_visible():
            found[text.get_text(), box] = True
        draw(text, renderer, *arguments, **options)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the layout is found while drawing
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.set_layout_engine("none")
        canvas.draw()
    return list(found)


def covered(figure: Figure, monkeypatch) -> list[tuple[str, str]]:
    """Return the pairs of texts that cover each other, or leave the picture."""
    texts, found = drawn_texts(figure, monkeypatch), []
    assert len(texts) > 5
    left, _, right, top = figure.bbox.extents
    for k, (name, box) in enumerate(texts):
        if box[0] < left or box[1] < 0 or box[2] > right or box[3] > top:
            found.append((name, "the frame"))
        for other, their in texts[:k]:
            apart = box[0] >= their[2] or their[0] >= box[2]
            if not apart and box[1] < their[3] and their[1] < box[3]:
                found.append((name, other))
    return found


def curves_of(count: int) -> Sensitivity:
    random = np.random.RandomState(count)
    names = [f"net_layers{i // 10}_conv{i % 10}" for i in range(count)]
    return Sensitivity(
        0.76,
        dict.fromkeys(names, 64),
        {
            name: list(zip((48, 32, 16), sorted(random.rand(3) * 0.76)[::-1]))
            for name in names
        },
        "l1",
    )


@pytest.mark.parametrize(("last", "marked"), [(0.8, "a"), (0.1, "b")])
def test_groups_that_lose_most_have_a_colour_of_their_own(drawn, last, marked):
    # One in six is marked: of equal ones the first, else the one that loses most.
    curves = {"a": [(4, 0.8)], "b": [(4, last)]}
    measured = Sensitivity(0.8, {"a": 8, "b": 8}, curves)
    report.sensitivity_chart(measured, "unused.png")
    inks = {a.get_title(): a.lines[-1].get_color() for a in drawn[0].axes[:2]}
    assert [name for name, ink in inks.items() if ink == LINES[1]] == [marked]


def test_sensitivity_without_a_curve_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one curve, there is none"):
        report.sensitivity_chart(Sensitivity(0.5, {}, {}), tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_chart_grows_with_the_groups_so_that_names_stay_legible(drawn):
    for count in (20, 60):
        rows = [row(f"net_layer{i}") for i in range(count)]
        report.kept_chart(rows, "unused.png", title="net")
    small, large = (figure.get_figheight() * charts.DPI for figure in drawn)
    assert (large - small) / 40 >= 28  # pixels a group


def test_same_plan_gives_the_same_file(tmp_path):
    rows = [{"name": "a", "width": 4, "kept": 2, "frozen": ""}]
    for name in ("a.png", "b.png"):
        report.kept_chart(rows, tmp_path / name, title="net")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_settings_of_the_caller_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    report.pareto([Point("a", 1, 0.5)], tmp_path / "p.png")
    assert dict(matplotlib.rcParams) == before


def test_dollar_signs_in_names_are_text(tmp_path):
    rows = [{"name": "a$_b$\\frac$", "width": 4, "kept": 2, "frozen": ""}]
    report.kept_chart(rows, tmp_path / "p.png", title="$\\nonsense$")
    report.pareto([Point("$\\nonsense$", 1, 0.5, "$x^$")], tmp_path / "q.png")
    assert (tmp_path / "p.png").exists()
    assert (tmp_path / "q.png").exists()


def test_chart_without_groups_is_refused_and_the_old_one_stays(tmp_path):
    (tmp_path / "p.png").write_text("old")
    with pytest.raises(ValueError, match="at least one channel group"):
        report.kept_chart([], tmp_path / "p.png", title="net")
    assert (tmp_path / "p.png").read_text() == "old"


# ---------------------------------------------------------------- curves


def test_missing_log_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: there is no such file"):
        report.curves({"full": tmp_path / "none.jsonl"}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_each_stage_has_its_colour(tmp_path, drawn):
    logs = {name: log_of(tmp_path / f"{name}.jsonl") for name in ("full", "compact")}
    report.curves(logs, "unused.png")
    loss, value, rate = drawn[0].axes
    for axes, lines_a_stage in ((loss, 2), (value, 1), (rate, 1)):
        inks = [line.get_color() for line in axes.lines]
        assert inks == [ink for ink in LINES[:2] for _ in range(lines_a_stage)]
    texts = [text.get_text() for text in value.get_legend().get_texts()]
    assert texts == ["full, best 0.200", "compact, best 0.200"]


def test_curves_of_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    one = log_of(tmp_path / "one.jsonl", epochs=1, batches=1)
    report.curves({"empty": tmp_path / "empty.jsonl"}, tmp_path / "a.png")
    report.curves({"one": one}, tmp_path / "b.png")
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "b.png").exists()


def test_loss_of_zero_or_none_is_drawn_around(tmp_path, drawn):
    record = {"kind": "step", "epoch": 0, "lr": 0.1, "parts": {}}
    losses = (1.0, 0.0, None, 2.0)
    lines = [json.dumps({**record, "step": i, "loss": v}) for i, v in enumerate(losses)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    report.curves({"full": tmp_path / "log.jsonl"}, "unused.png")
    line = drawn[0].axes[0].lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 0.75], [1, 2])


def parts_log(path, *parts: dict) -> str:
    record = {"kind": "step", "epoch": 0, "lr": 0.1, "loss": 1.0}
    lines = [json.dumps({**record, "step": i, "parts": p}) for i, p in enumerate(parts)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_part_of_the_loss_has_its_line(tmp_path, drawn):
    log = parts_log(tmp_path / "a.jsonl", *[{"class": 2.0, "box": 1.0}] * 4)
    report.part_curves({"full": log}, "unused.png")
    lines = drawn[0].axes[0].lines
    assert [line.get_color() for line in lines] == list(LINES[:2])
    assert [list(line.get_ydata()) for line in lines] == [[2] * 4, [1] * 4]


def test_a_part_keeps_its_colour_in_every_panel(tmp_path, drawn):
    # The second stage has the second part alone.
    first = parts_log(tmp_path / "a.jsonl", *[{"class": 2.0, "box": 1.0}] * 4)
    second = parts_log(tmp_path / "b.jsonl", *[{"box": 1.0}] * 4)
    report.part_curves({"full": first, "compact": second}, "unused.png")
    left, right = drawn[0].axes
    assert [line.get_color() for line in right.lines] == [left.lines[1].get_color()]


def test_a_panel_that_no_stage_needs_is_left_blank(tmp_path, drawn):
    log = parts_log(tmp_path / "a.jsonl", *[{"class": 2.0}] * 4)
    report.part_curves(dict.fromkeys("abc", log), "unused.png")
    assert [axes.axison for axes in drawn[0].axes] == [True, True, True, False]


def test_more_parts_than_colours_are_told_apart(tmp_path):
    lines = [tuple(line.values()) for line in curve_lines(12)]
    assert len(set(lines)) == 12


def test_parts_of_zero_or_none_are_drawn_around(tmp_path, drawn):
    values = [0.0, None, 1.0, 2.0]
    log = parts_log(tmp_path / "a.jsonl", *[{"box": v} for v in values], {})
    report.part_curves({"full": log}, "unused.png")
    assert list(drawn[0].axes[0].lines[0].get_ydata()) == [1.5, 1.5]  # smoothed


def test_curves_of_parts_without_any_are_refused(tmp_path):
    logs = {"full": log_of(tmp_path / "log.jsonl")}
    with pytest.raises(ValueError, match="need a step with a part, there is none"):
        report.part_curves(logs, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_best_validation_leaves_missing_values_out():
    records = [{"mAP": 0.3}, {"mAP": float("nan")}, {"mAP": None}, {"loss": 9}]
    assert best_of(records) == 0.3
    assert best_of(records[1:]) is None


# ---------------------------------------------------------------- pareto


def test_frontier_holds_what_no_other_beats():
    a, b, c, d = (
        Point(*row)
        for row in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.7), ("d", 1, 0.3))
    )
    assert frontier([c, d, b, a]) == [a, c]


@pytest.mark.parametrize(
    ("costs", "scale"),
    [
        ((1, 2, 9), "log"),
        ((1, 2, 3), "linear"),
        ((0, 1, 9), "linear"),
        ((5,), "linear"),
    ],
)
def test_costs_far_apart_are_on_a_logarithmic_axis(drawn, costs, scale):
    report.pareto([Point(f"net {c}", c, 0.5) for c in costs], "unused.png")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    assert low < min(costs)
    assert max(costs) < high


def test_names_in_a_crowd_cover_neither_points_nor_each_other():
    points = [Point(f"a net {i}", 1 + 0.02 * i, 0.7 + 0.001 * i) for i in range(6)]
    points.append(Point("far", 9, 0.9))
    axes = Figure(figsize=(8, 5)).add_subplot()
    axes.plot([p.cost for p in points], [p.value for p in points], "o", label="x")
    boxes = name_points(axes, points, axes.legend(loc="lower right"))
    spots = axes.transData.transform([(p.cost, p.value) for p in points])
    for i, (left, bottom, right, top) in enumerate(boxes):
        inside = (spots > (left, bottom)) & (spots < (right, top))
        assert not inside.all(axis=1).any()
        for other in boxes[:i]:
            assert (
                left >= other[2]
                or right <= other[0]
                or (bottom >= other[3] or top <= other[1])
            )


# ---------------------------------------------------------------- boxes


def test_label_loses_its_padding():
    label = [[1, 2, 3, 4, 2, 1], [-1, -1, -1, -1, -1, -1]]
    boxes = Boxes.of_label(np.array(label))
    assert boxes.corner_boxes.tolist() == [[1, 2, 3, 4]]
    assert (boxes.ids.tolist(), boxes.difficult.tolist()) == ([2], [1])


def test_empty_label_has_no_box():
    assert len(Boxes.of_label(np.zeros((0, 6)))) == 0


def test_output_is_sorted_scaled_and_cut_at_the_threshold():
    ids = np.array([[0], [1], [-1], [2]])
    scores = np.array([[0.5], [0.9], [0.99], [0.49]])
    corners = np.tile([10.0, 10.0, 20.0, 30.0], (4, 1))
    boxes = Boxes.of_output(ids, scores, corners, threshold=0.5, scale=(2, 0.5))
    assert boxes.ids.tolist() == [1, 0]
    assert boxes.corner_boxes.tolist() == [[20, 5, 40, 15]] * 2


def test_records_name_class_score_and_box():
    boxes = Boxes(np.array([[1.04, 2, 3, 4]]), np.array([1]), np.array([0.51234]))
    record = {"class": "dog", "score": 0.5123, "box": [1.0, 2.0, 3.0, 4.0]}
    assert boxes.records(CLASSES) == [record]


def test_outline_lies_on_the_edge_of_the_box():
    boxes = Boxes(np.array([[20.0, 10.0, 60.0, 50.0]]), np.array([1]))
    rows, columns = np.nonzero(has(report.draw(GREY, boxes, CLASSES), colour(1)))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 10, 60, 50)
    assert not has(report.draw(GREY, boxes, CLASSES), colour(1))[30, 40]


def test_small_box_is_not_filled():
    corner_boxes = np.array([[20.0, 10.0, 26.0, 16.0]])
    picture = report.draw(GREY, Boxes(corner_boxes, np.array([0])), CLASSES)
    assert (picture[12:15, 22:25] == 120).all()


def test_boxes_follow_an_enlarged_image():
    boxes = Boxes(np.array([[20.0, 10.0, 60.0, 50.0]]), np.array([0]))
    picture = report.draw(GREY, boxes, CLASSES, width=160)
    assert picture.shape == (120, 160, 3)
    rows, columns = np.nonzero(has(picture, colour(0)))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (40, 20, 120, 100)


def test_given_image_is_not_changed():
    image = GREY.copy()
    boxes = Boxes(np.array([[2.0, 2.0, 70.0, 50.0]]), np.array([0]), np.array([0.9]))
    report.draw(image, boxes, CLASSES)
    assert np.array_equal(image, GREY)


@pytest.mark.parametrize(
    "corners",
    [
        [-30, -30, 200, 200],
        [90, 70, 95, 75],
        [40, 40, 40, 40],
        [50, 50, 40, 40],
        [0, 0, 79, 59],
    ],
)
@pytest.mark.parametrize("hard", [0, 1])
def test_box_of_any_place_and_form_can_be_drawn(corners, hard):
    corner_boxes = np.array([corners], float)
    boxes = Boxes(corner_boxes, np.array([0]), np.array([0.9]), np.array([hard]))
    picture = report.draw(GREY, boxes, CLASSES)
    assert picture.shape == GREY.shape


def test_difficult_box_is_dashed():
    corner_boxes, ids = np.array([[10.0, 10.0, 70.0, 50.0]]), np.array([0])
    usual, hard = (
        has(report.draw(GREY, Boxes(corner_boxes, ids, None, flag), CLASSES), colour(0))
        for flag in (np.array([0]), np.array([1]))
    )
    assert 0.3 * usual.sum() < hard.sum() < 0.8 * usual.sum()


def test_labels_do_not_cover_each_other():
    image = np.full((300, 300, 3), 120, np.uint8)
    corner_boxes = np.array([[50.0, 50.0, 250.0, 250.0]] * 3)
    boxes = Boxes(corner_boxes, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]))
    picture = report.draw(image, boxes, CLASSES)
    # Outlines lie on each other, so what is seen of the others are their labels.
    labels = [has(picture, colour(i)).sum() for i in range(3)]
    assert min(labels) > 300


NAMES = ("cat", "Schraube groß", "螺栓", "кот", "猫 M6", "🐈", "a\nb")


def test_class_that_the_font_cannot_draw_is_named_by_its_number():
    labels = [label_of(i, NAMES) for i in range(len(NAMES))]
    kept = [NAMES[0], NAMES[1], "class 2", NAMES[3], "class 4", "class 5", "class 6"]
    assert labels == kept


def test_labels_and_legend_are_drawn_with_the_number(tmp_path):
    found = Boxes(np.array([[9, 9, 70, 50]]), np.array([2]), np.array([0.9]))
    pictures = []
    for third in ("螺栓", "class 2"):
        names = (*NAMES[:2], third)
        report.detections([Example(GREY, found, found)], names, tmp_path / "p.png")
        pictures.append(read(tmp_path / "p.png"))
    np.testing.assert_array_equal(*pictures)


def test_class_without_a_name_is_refused():
    boxes = Boxes(np.array([[1.0, 1.0, 9.0, 9.0]]), np.array([3]))
    with pytest.raises(ValueError, match="a box is of class 3; there are 3"):
        report.draw(GREY, boxes, CLASSES)


@pytest.mark.parametrize("image", [GREY / 255, GREY[..., 0], GREY[..., :1]])
def test_wrong_image_is_refused(image):
    with pytest.raises(ValueError, match="allowed: uint8"):
        report.draw(image, Boxes.of_label(np.zeros((0, 6))), CLASSES)


def contrast_with_white(rgb: tuple[int, ...]) -> float:
    """Return the contrast ratio of the Web Content Accessibility Guidelines."""
    c = np.array(rgb) / 255
    linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_colours_of_many_classes_differ_and_are_dark_enough_for_white_text():
    colours = [colour(i) for i in range(91)]
    assert len(set(colours)) == 91
    assert colours[: len(PALETTE)] == list(PALETTE)
    assert min(map(contrast_with_white, colours)) >= 4.5


# ---------------------------------------------------------------- detections


def example(name: str = "") -> Example:
    truth = Boxes.of_label(np.array([[5, 5, 40, 40, 0, 0]]))
    found = Boxes(np.array([[5.0, 5.0, 40.0, 40.0]]), np.array([1]), np.array([0.8]))
    return Example(GREY, truth, found, name)


def test_truth_is_left_and_found_is_right(tmp_path):
    report.detections([example()], CLASSES, tmp_path / "d.png", panel=200)
    image = read(tmp_path / "d.png")[60:]  # below the legend
    assert has(image, colour(0))[:, :212].any()
    assert not has(image, colour(0))[:, 212:].any()
    assert has(image, colour(1))[:, 212:].any()


def test_heads_can_be_others(tmp_path):
    for name, heads in (("a", {}), ("b", {"heads": ("before", "after")})):
        report.detections([example()], CLASSES, tmp_path / f"{name}.png", **heads)
    a, b = (read(tmp_path / f"{name}.png") for name in "ab")
    assert a.shape == b.shape
    changed = (a != b).any(axis=(1, 2)).nonzero()[0]
    assert 26 <= changed.min() <= changed.max() < 60


def test_legend_names_every_class_over_as_many_lines_as_it_takes(tmp_path):
    classes = [f"a class with a long name {i}" for i in range(40)]
    report.detections([example()], classes, tmp_path / "d.png", panel=200)
    image = read(tmp_path / "d.png")
    assert all(has(image, colour(i)).sum() >= 14 * 14 for i in range(40))


def test_images_of_different_aspect_share_a_picture(tmp_path):
    tall = Example(np.zeros((90, 30, 3), np.uint8), *[Boxes.of_label([])] * 2, "tall")
    report.detections([example("a"), tall], CLASSES, tmp_path / "d.png", panel=100)
    assert read(tmp_path / "d.png").shape[1] == 236


def test_detections_without_an_image_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        report.detections([], CLASSES, tmp_path / "d.png")


@pytest.mark.parametrize(
    ("name", "start"), [("a.jpg", b"\xff\xd8"), ("a.png", b"\x89P")]
)
def test_ending_decides_the_format(tmp_path, name, start):
    report.save_image(GREY, tmp_path / "new" / name)
    assert (tmp_path / "new" / name).read_bytes().startswith(start)


def test_gallery_has_rows_of_images_with_their_boxes(tmp_path):
    box = Boxes(np.array([[10, 10, 40, 40]], float), np.array([1]))
    tiles = [Tile(GREY, box, f"a long name of an image file {i}.jpg") for i in range(3)]
    gallery(tiles, CLASSES, tmp_path / "g.png", columns=2, panel=80)
    image = read(tmp_path / "g.png")
    assert image.shape[1] == 2 * (80 + 12) + 12
    dogs = has(image, PALETTE[1])
    # A box in each of two columns of the first row, and in one of the second.
    halves = [np.hsplit(rows, 2) for rows in np.array_split(dogs[30:], 2)]
    assert [[half.any() for half in row] for row in halves] == [[1, 1], [1, 0]]


def test_gallery_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        gallery([], CLASSES, tmp_path / "g.png")
