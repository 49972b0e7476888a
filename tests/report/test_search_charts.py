from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.plan import RandomSearch
from gluon_compress.report import read_search_log, search_chart
from searches import problem_of, score_of


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "search.jsonl"
    rows: list = []
    search = RandomSearch(score_of, episodes=6, log=path, progress=rows.append)
    search(problem_of())
    return path, rows


def test_the_log_of_a_search_is_read(log):
    path, rows = log
    found = read_search_log(path)
    assert found.name == "random_search"
    np.testing.assert_array_equal(found.rewards, [row.reward for row in rows])
    np.testing.assert_array_equal(found.loads, [row.loads["macs"] for row in rows])
    full = [row[-1] for row in problem_of().widths]
    np.testing.assert_allclose(
        found.shares, np.array([row.widths for row in rows]).T / np.array(full)[:, None]
    )
    assert found.reference == rows[0].reference


def test_the_chart_of_a_search_is_drawn(log, tmp_path):
    search_chart(read_search_log(log[0]), tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "{}\n", '{"full": [1]}\n{"episode": 0}\n', "x\n"])
def test_a_file_that_is_no_log_is_refused(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        read_search_log(tmp_path / "log.jsonl")
