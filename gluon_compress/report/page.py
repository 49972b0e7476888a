"""The page: one ``index.html`` whose folder holds all that it shows and links to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Mapping, Sequence
from urllib.parse import quote

from gluon_compress.report.tables import (
    Figures,
    cost_cells,
    plan_cells,
    precision_cells,
)
from gluon_compress.storage.atomic import write_atomically

CSS = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 62rem; color: #222;
  background: #fff; font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.4rem 0 0.6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem; padding-top: 0.7rem;
  border-top: 1px solid #ddd; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.9rem 0.35rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e4e4e4; }
th:first-child { text-align: left; }
tbody th { font-weight: normal; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom;
  white-space: normal; }
tr.mean > * { font-weight: 600; }
table.words :is(td, th):nth-last-child(-n + 2) { text-align: left; min-width: 10rem;
  white-space: normal; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.2rem; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0 0; }
img { max-width: 100%; height: auto; border: 1px solid #e4e4e4; }
figcaption, .note { color: #555; font-size: 0.92rem; max-width: 46rem; }
a { color: #0b57a4; }
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
  th, td { padding-right: 0.7rem; font-size: 0.92rem; }
}
"""
NOTE = (
    "MACs are the multiply-accumulates of convolutions and dense layers for one "
    "image, FLOPs are 2 × MACs, MB are 10⁶ bytes of float32 parameters as stored."
)


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Parameters
    ----------
    file : path
        In the page's folder or below it; a relative one is meant from there.
    title, caption : str
    alt : str
        What is to be seen, for those who cannot see it.
    """

    file: str | os.PathLike
    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Page:
    """What ``index.html`` shows; an empty part is left out.

    Parameters
    ----------
    title, summary : str
    facts : mapping
        Of the recipe: name to value.
    figures : sequence of Figures
        Before and after; the first is what the others are compared with.
    pictures : sequence of Picture
    precisions : mapping
        Name of a net to what ``voc_map`` returned for it: mAP and each class.
    plans : mapping
        Name of a stage to the rows of ``plan.explain``.
    results : mapping
        Name of a stage to its ``result.json``, which is copied beside the page.
    """

    title: str
    summary: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figures] = ()
    pictures: Sequence[Picture] = ()
    precisions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    plans: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    results: Mapping[str, str | os.PathLike] = field(default_factory=dict)


def html(path: str | os.PathLike, page: Page) -> None:
    """Write the page; its folder then holds all that it shows and links to.

    Parameters
    ----------
    path : path
        Of the page, usually ``index.html`` in a folder of its own.
    page : Page

    Raises
    ------
    ValueError
        If a picture is missing, outside the folder or without alternative text, or
        a result file is missing; the page of before is still there then.
    """
    path = Path(path)
    folder = path.parent
    shown = [(_inside(folder, picture), picture) for picture in page.pictures]
    results = {name: _content(source) for name, source in page.results.items()}
    names = _file_names(results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in results.items():
        write_atomically(folder / names[name], content)
    parts = [
        f"<h1>{escape(page.title)}</h1>",
        f"<p>{escape(page.summary)}</p>" if page.summary else "",
        _section("Before and after", _cost_part(page.figures)),
        _section("Precision of each class", _precision_part(page.precisions)),
        *(_section(p.title, _picture_part(link, p)) for link, p in shown),
        *(
            _section(f"Groups of {name}", _groups_part(rows))
            for name, rows in page.plans.items()
        ),
        _section("Recipe", _facts_part(page.facts)),
        _section("Measured results", _links_part(names)),
    ]
    write_atomically(path, _document(page.title, "\n".join(filter(None, parts))))


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""


def _inside(folder: Path, picture: Picture) -> str:
    """Return the link to a picture, which must exist in the folder."""
    base = folder.resolve()
    file = (base / picture.file).resolve()
    if not file.is_file():
        raise ValueError(f"{picture.file}: there is no such picture in {folder}")
    if base not in file.parents:
        raise ValueError(f"{picture.file}: this picture lies outside {folder}")
    if not picture.alt:
        raise ValueError(f"{picture.file}: this picture has no alternative text")
    return quote(file.relative_to(base).as_posix())


def _content(source: str | os.PathLike) -> bytes:
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror}") from None


def _file_names(results: Mapping[str, Any]) -> dict[str, str]:
    """Return a distinct, plain file name for the result of each stage."""
    names: dict[str, str] = {}
    for name in results:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "stage"
        number = 1
        file = f"{plain}-result.json"
        while file in names.values():
            number += 1
            file = f"{plain}-{number}-result.json"
        names[name] = file
    return names


def _breakable(text: str) -> str:
    """Escape, and let the long names of layers break where their words do."""
    return escape(text).replace("_", "_<wbr>")


def _table(
    cells: Sequence[Sequence[str]], mean: int | None = None, *, words: bool = False
) -> str:
    """Return a table whose first row and column are heads.

    Row ``mean`` stands out; with ``words`` the last two columns are text.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in cells[0])
    rows = []
    for i, (name, *values) in enumerate(cells[1:]):
        kind = ' class="mean"' if i == mean else ""
        inside = "".join(f"<td>{_breakable(v)}</td>" for v in values)
        rows.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{inside}</tr>')
    body = "\n".join(rows)
    kind = ' class="words"' if words else ""
    return (
        f'<div class="wide"><table{kind}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def cost_html(rows: Sequence[Figures]) -> str:
    """Return the cost table as an HTML table, escaped."""
    return _table(cost_cells(rows))


def _cost_part(rows: Sequence[Figures]) -> str:
    return f'{cost_html(rows)}\n<p class="note">{NOTE}</p>' if rows else ""


def _groups_part(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(plan_cells(rows), mean=len(rows), words=True)


def _precision_part(precisions: Mapping[str, Mapping[str, float]]) -> str:
    if not precisions:
        return ""
    cells = precision_cells(precisions)
    return _table(cells, mean=len(cells) - 2)


def _picture_part(link: str, picture: Picture) -> str:
    alt = escape(picture.alt)
    return (
        f'<figure><a href="{link}"><img src="{link}" alt="{alt}"></a>\n'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _facts_part(facts: Mapping[str, Any]) -> str:
    rows = [
        f"<dt>{escape(str(name))}</dt><dd>{escape(_fact(value))}</dd>"
        for name, value in facts.items()
    ]
    return "<dl>\n" + "\n".join(rows) + "\n</dl>" if rows else ""


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_fact, value))
    if isinstance(value, float) and value.is_integer():
        return f"{value:,.0f}"
    return "–" if value is None else str(value)


def _links_part(names: Mapping[str, str]) -> str:
    rows = [
        f'<li><a href="{quote(file)}">{escape(name)}</a></li>'
        for name, file in names.items()
    ]
    return "<ul>\n" + "\n".join(rows) + "\n</ul>" if rows else ""
