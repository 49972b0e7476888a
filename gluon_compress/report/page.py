"""Writes a report: an ``index.html`` that shows files of its own folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Sequence
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from gluon_compress.report.tables import (
    Figures,
    cost_cells,
    plan_cells,
    precision_cells,
)
from gluon_compress.storage.atomic import write_atomically

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Parameters
    ----------
    file : path
        In the page's folder or below it; a relative path starts there.
    title, caption : str
    alt : str
        A description for readers who cannot see the picture.
    """

    file: str | os.PathLike
    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Table:
    """A table on the page.

    Parameters
    ----------
    title, caption : str
    cells : sequence of sequence of str
        Rows of text, the head first; if ``total``, the last row is set off.
    total : bool
    """

    title: str
    cells: Sequence[Sequence[str]]
    caption: str = ""
    total: bool = False


@dataclass(frozen=True)
class Page:
    """The content of ``index.html``. Empty parts are left out.

    Parameters
    ----------
    title, summary : str
    findings : mapping
        Sentences by the heading that they stand under.
    facts : mapping
        Names and values of the recipe.
    figures : sequence of Figures
        One for each net; the last is compared with the first.
    tables : sequence of Table
    pictures : sequence of Picture
    precisions : mapping
        By name of the net, what ``voc_map`` returned: mAP and each class.
    plans : mapping
        By name of the stage, the rows of ``plan.explain``.
    results : mapping
        By name of the stage, its ``result.json``, which is copied beside the page.
    """

    title: str
    summary: str = ""
    findings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figures] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    precisions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    plans: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    results: Mapping[str, str | os.PathLike] = field(default_factory=dict)


def html(path: str | os.PathLike, page: Page) -> None:
    """Write the page. Its folder then holds everything that it shows and links to.

    Parameters
    ----------
    path : path
        Usually ``index.html`` in a folder of its own.
    page : Page

    Raises
    ------
    ValueError
        If a picture is missing, outside the folder or without alternative text, or a
        result file is missing. An earlier page is left as it is.
    """
    path = Path(path)
    folder = path.parent
    pictures = [(_link(folder, picture), picture) for picture in page.pictures]
    results = {name: _content(source) for name, source in page.results.items()}
    files = _file_names(results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in results.items():
        write_atomically(folder / files[name], content)
    text = _template().render(
        page=page,
        costs=cost_cells(page.figures) if page.figures else [],
        precisions=precision_cells(page.precisions) if page.precisions else [],
        pictures=pictures,
        plans={name: plan_cells(rows) for name, rows in page.plans.items()},
        files=files,
    )
    write_atomically(path, text)


@lru_cache(maxsize=None)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(breakable=_breakable, fact=_fact)
    return environment.get_template(TEMPLATE)


def _breakable(text: str) -> Markup:
    """Escape a text, and let the long names of layers break after underscores."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _fact(value: Any) -> str:
    """Return a value of the recipe as readers expect it."""
    if isinstance(value, (Mapping, list, tuple)) and not value:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_fact, value))
    if isinstance(value, float) and value.is_integer():
        return f"{value:,.0f}"
    return "–" if value is None else str(value)


def _link(folder: Path, picture: Picture) -> str:
    """Return the address of a picture, which must lie in the folder."""
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
    """Return a plain and distinct file name for the result of each stage."""
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
