"""The commands that a page shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (".venv/bin/python ", "scripts/", "make ", "pip ")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n\s*")
_REMARK = re.compile(r"\s+#\s.*$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """Shell text of a page, and the line that it starts on."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        """Return the place and the text on one line."""
        return f"{self.page.name}:{self.line}: {'; '.join(self.text.splitlines())}"


def commands_of(page: Path) -> list[Command]:
    """Return what a page says to run, in its order.

    A fenced ``bash`` block is one command, for its lines share variables. In indented
    blocks every line that starts with a known program is one.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for block in _FENCE.finditer(text):
        if block[1] == "bash":
            found.append(_command(page, text, block.start(2), block[2]))
    # Without fences, but every line where it was.
    bare = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for block in _INDENTED.finditer(bare):
        for row in re.finditer(r"^ +((?:.*\\\n)*.*)$", block[0], re.MULTILINE):
            if row[1].startswith(PROGRAMS):
                start = block.start() + row.start()
                found.append(_command(page, bare, start, row[1]))
    return sorted(found, key=lambda command: command.line)


def _command(page: Path, text: str, start: int, shown: str) -> Command:
    joined = _REMARK.sub("", _CONTINUED.sub(" ", shown)).strip()
    return Command(page, text.count("\n", 0, start) + 1, joined)
