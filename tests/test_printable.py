from __future__ import annotations

import pytest

from gluon_compress.printable import is_plain, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m", r"a\x1b[31m"),
        ("a\nb", r"a\nb"),
        ("\u202egpj", r"\u202egpj"),
        ("\udcff", r"\udcff"),
        ("\x9b2J", r"\x9b2J"),
    ],
)
def test_what_a_terminal_acts_on_is_escaped(text, shown):
    assert printable(text) == shown
    assert not is_plain(text)


@pytest.mark.parametrize("text", ["", "cat, 2", "ÄÖ 猫", "می\u200cخواهم", "👩\u200d🚀"])
def test_writing_of_every_kind_stays(text):
    assert printable(text) == text
    assert is_plain(text)


def test_lines_may_stay():
    assert printable("a\tb\n\x07", lines=True) == "a\tb\n\\x07"
