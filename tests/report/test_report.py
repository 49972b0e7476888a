from __future__ import annotations

import math
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from gluon_compress import Budget, count, report, select, trace
from gluon_compress.plan import Constraints, Greedy
from gluon_compress.report import Figures, Page, Picture
from gluon_compress.report.tables import cost_cells, number
from nets import SHAPE, ready, wide

FULL = Figures("full", 20e6, 80e6, 8e9, 0.8, 100.0)
SMALL = Figures("compact", 5e6, 20e6, 2e9, 0.75, 30.0)


# ---------------------------------------------------------------- tables


def column(cells: list, name: str) -> dict:
    at = cells[0].index(name)
    return {row[0]: row[at] for row in cells[1:]}


def test_quantities_are_in_their_units():
    values = column(cost_cells([FULL, SMALL]), "full")
    assert values == {
        "Parameters, M": "20.0",
        "Size, MB": "80.0",
        "GMACs": "8.00",
        "GFLOPs": "16.0",
        "Latency in MXNet, ms": "100",
        "mAP": "0.800",
    }


def test_last_net_is_compared_with_the_first():
    middle = Figures("masked", 20e6, 80e6, 8e9, 0.1, 100.0)
    values = column(cost_cells([FULL, middle, SMALL]), "compact vs full")
    assert values["Parameters, M"] == "25.0 %"
    assert values["Latency in MXNet, ms"] == "30.0 %, ranges unknown"

    assert values["mAP"] == "−0.050"


def timed(name, low, middle, high):
    return Figures(name, latency_ms=middle, latency_range=(low, high))


def test_latencies_whose_ranges_overlap_are_not_compared_without_a_word():
    full, fast = timed("full", 90, 100, 110), timed("compact", 35, 40, 45)
    busy = timed("compact", 80, 122, 160)
    assert cost_cells([full, fast])[-1][1:] == [
        "100 (90.0 to 110)",
        "40.0 (35.0 to 45.0)",
        "40.0 %",
    ]
    assert cost_cells([full, busy])[-1][-1] == "122.0 %, ranges overlap"
    unknown = Figures("compact", latency_ms=40)
    assert cost_cells([full, unknown])[-1][-1] == "40.0 %, ranges unknown"


def test_one_net_is_compared_with_none():
    assert cost_cells([FULL])[0] == ["", "full"]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_figure_is_a_dash(missing):
    cells = cost_cells([FULL, Figures("x", 5e6, mAP=missing)])
    assert column(cells, "x")["mAP"] == "–"
    assert column(cells, "x vs full")["mAP"] == "–"
    assert column(cells, "x vs full")["GMACs"] == "–"


def test_quantity_that_no_net_has_is_left_out():
    assert [row[0] for row in cost_cells([Figures("x", mAP=0.5)])] == ["", "mAP"]


def test_markdown_columns_are_aligned():
    lines = report.cost_table([FULL, SMALL]).splitlines()
    bars = {tuple(i for i, c in enumerate(line) if c == "|") for line in lines}
    assert len(bars) == 1
    assert set(lines[1]) == set("|:-")


def test_bar_in_a_name_does_not_split_its_cell():
    assert r"a\|b" in report.cost_table([Figures("a|b", 1e6)])


def test_precisions_have_a_row_a_class_and_end_with_the_mean():
    table = report.precision_table(
        {"full": {"mAP": 0.5, "cat": 0.4, "dog": math.nan}, "compact": {"mAP": 0.25}}
    )
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["class", "full", "compact"]
    assert rows[2:] == [
        ["cat", "0.400", "–"],
        ["dog", "–", "–"],
        ["mAP", "0.500", "0.250"],
    ]


@pytest.mark.parametrize("table", [report.cost_table, report.precision_table])
def test_table_of_nothing_is_refused(table):
    with pytest.raises(ValueError, match="at least one net"):
        table([])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.155, "1.16"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (16.27, "16.3"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_figures_have_three_digits(value, text):
    assert number(value) == text


def test_plan_table_has_a_line_a_group_and_says_what_was_left_whole():
    graph = trace(ready(wide()), SHAPE)
    budget = Budget.share(count(graph), macs=0.6)
    plan = select(graph, budget, constraints=Constraints(minimum={"conv4": 1.0}))
    lines = report.plan_table(graph, plan).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0][:5] == ["group", "width", "kept", "MACs saved", "bytes saved"]
    body = {row[0]: row for row in rows[2:]}
    assert list(body) == [*(group.name for group in graph.groups), "all"]
    assert body["conv0"][1:] == [
        *("48", "48", "0.0 %", "0.0 %"),
        "first layer, protected unless ends=True",
        "conv0, conv2",
    ]
    assert body["conv4"][5] == "kept whole"
    assert body["conv5"][5].startswith("frozen: network output 0")
    assert body["conv1"][5] == ""
    kept = sum(len(plan.kept(group)) for group in graph.groups)
    assert body["all"][1:6] == [
        *("221", str(kept), "100.0 %", "100.0 %"),
        f"{sum(row[1] == row[2] for row in rows[2:-1])} of 5 groups whole",
    ]
    shares = [float(row[3][:-2]) for row in rows[2:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_plan_table_shows_effects_where_they_were_measured():
    graph = trace(ready(wide()), SHAPE)
    free = [group.name for group in graph.groups if not group.frozen]
    plan = select(
        graph,
        Budget.share(count(graph), macs=0.5),
        selection=Greedy(dict.fromkeys(free, 0.25)),
    )
    lines = [line.split("|") for line in report.plan_table(graph, plan).splitlines()]
    assert lines[0][4].strip() == "effect"
    assert {len(line) for line in lines} == {10}
    shown = {line[1].strip(): line[4].strip() for line in lines[2:]}
    expected = {g.name: "" if g.frozen else "0.25" for g in graph.groups}
    assert shown == {**expected, "all": ""}


# ---------------------------------------------------------------- page


class Parsed(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path) -> None:
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    """Return a folder with a picture and results, and a page on them."""
    folder = tmp_path / "report"
    folder.mkdir()
    cv2.imwrite(str(folder / "a plan #1.png"), np.zeros((4, 4, 3), np.uint8))
    results = {}
    for name in ("full", "compact"):
        results[name] = tmp_path / name / "result.json"
        results[name].parent.mkdir()
        results[name].write_text(f'{{"stage": "{name}"}}')
    return folder, Page(
        title="SSD & friends",
        summary="Trained on <toy>.",
        facts={
            "seed": 0,
            "budget": {"macs": 2.31e9, "bytes": None},
            "classes": ["a", "b"],
        },
        figures=[FULL, SMALL],
        pictures=[Picture("a plan #1.png", "Plan", "kept < all", 'bars "kept"')],
        precisions={"full": {"mAP": 0.5, "c<d": 0.5}},
        results=results,
    )


def written(page) -> Parsed:
    folder, content = page
    report.html(folder / "index.html", content)
    return Parsed(folder / "index.html")


def test_tags_are_closed_and_all_parts_are_there(page):
    parsed = written(page)
    assert parsed.open == []
    heads = ["Before and after", "Precision of each class", "Plan", "Recipe"]
    assert [t for t in parsed.texts if t in heads] == heads


def test_text_is_escaped(page):
    parsed = written(page)
    assert "<toy>" not in parsed.source
    assert {"SSD & friends", "Trained on <toy>.", "kept < all", "c<d"} <= set(
        parsed.texts
    )
    assert parsed.all("img")[0]["alt"] == 'bars "kept"'


def test_folder_can_be_moved(page, tmp_path):
    written(page)
    moved = tmp_path / "elsewhere"
    page[0].rename(moved)
    parsed = Parsed(moved / "index.html")
    links = [a["href"] for a in parsed.all("a")] + [i["src"] for i in parsed.all("img")]
    assert len(links) == 4
    for link in links:
        name = link.replace("%20", " ").replace("%23", "#")
        assert (moved / name).is_file()


def test_results_are_copied_as_they_are(page):
    folder, content = page
    written(page)
    for name, source in content.results.items():
        assert (folder / f"{name}-result.json").read_bytes() == source.read_bytes()


def test_results_of_similar_names_do_not_replace_each_other(page):
    folder, content = page
    sources = list(content.results.values())
    names = {"a b": sources[0], "a/b": sources[1]}
    report.html(folder / "index.html", Page("t", results=names))
    links = [a["href"] for a in Parsed(folder / "index.html").all("a")]
    copies = [(folder / link).read_bytes() for link in links]
    assert copies == [source.read_bytes() for source in sources]


def test_page_fits_a_phone(page):
    parsed = written(page)
    assert {"name": "viewport"}.items() <= parsed.all("meta")[1].items()
    wrapped = parsed.source.count('<div class="wide"><table>')
    assert wrapped == parsed.source.count("<table>") == 2


def test_findings_and_tables_stand_under_their_titles(tmp_path):
    table = report.Table("Objects", [["class", "all"], ["c<d", "3"]], "a note", True)
    findings = {"Errors": ["x < y"], "Warnings": ["one", "two"]}
    content = Page("t", findings=findings, tables=[table])
    report.html(tmp_path / "index.html", content)
    parsed = Parsed(tmp_path / "index.html")
    assert parsed.open == []
    assert [t for t in parsed.texts if t.strip()][2:] == [
        *("Errors", "x < y", "Warnings", "one", "two"),
        *("Objects", "class", "all", "c<d", "3", "a note"),
    ]
    assert [row.get("class") for row in parsed.all("tr")] == [None, "mean"]


def test_facts_are_readable(page):
    texts = written(page).texts
    assert {"macs 2,310,000,000, bytes –", "a, b"} <= set(texts)


def test_parts_without_content_are_left_out(tmp_path):
    report.html(tmp_path / "new" / "index.html", Page("only a title"))
    parsed = Parsed(tmp_path / "new" / "index.html")
    assert parsed.texts == ["only a title"] * 2


def test_same_page_gives_the_same_file(page):
    first = written(page).source
    assert written(page).source == first


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Picture("none.png", "t", "c", "alt"), "none.png: there is no such picture"),
        (Picture("../full/result.json", "t", "c", "alt"), "lies outside"),
        (Picture("a plan #1.png", "t", "c", ""), "no alternative text"),
    ],
)
def test_wrong_picture_is_named_and_the_page_stays(page, picture, message):
    folder, _ = page
    before = written(page).source
    with pytest.raises(ValueError, match=message):
        report.html(folder / "index.html", Page("t", pictures=[picture]))
    assert (folder / "index.html").read_text() == before


def test_missing_result_is_named(page, tmp_path):
    folder, _ = page
    lost = tmp_path / "lost.json"
    with pytest.raises(ValueError, match=r"lost\.json: No such file"):
        report.html(folder / "index.html", Page("t", results={"full": lost}))
    assert not (folder / "index.html").exists()


def test_zeros_and_trials_of_stages_are_tables():
    from gluon_compress.report.run_report import _trials, _zeros

    layer = {"layer": "conv0", "weights": 10, "zeros": 5, "bytes": 22}
    notes = {"layers": [layer], "weights": 10, "zeros": 5, "bytes": 22}
    trial = {"strength": 0.5, "drop": 1.234, "within": False}
    stages = {
        "full": {},
        "1_sparsify": {
            "sparsity": {**notes, "float32_bytes": 40},
            "trials": [trial],
            "strength": 0,
        },
    }
    (zeros,), (trials,) = _zeros(stages), _trials(stages)
    assert zeros.cells[1:] == [
        ["conv0", "10", "5", "22"],
        ["all of these", "10", "5", "22"],
    ]
    assert trials.cells[1:] == [["0.500", "1.23", "no"]]
