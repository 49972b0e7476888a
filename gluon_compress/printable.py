"""Writes names of files and classes so that a terminal only shows them."""

from __future__ import annotations

import re

# Control characters, line separators, and what reverses the direction of text.
_ACTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def is_plain(text: str) -> bool:
    """Return whether a text has nothing that a terminal would act on."""
    return _ACTIVE.search(text) is None


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text with escapes in place of what a terminal would act on.

    Parameters
    ----------
    text : str
    lines : bool
        Keep line breaks and tabs.
    """

    def escaped(match: re.Match) -> str:
        if lines and match[0] in "\n\t\r":
            return match[0]
        return match[0].encode("unicode_escape").decode("ascii")

    return _ACTIVE.sub(escaped, text)
