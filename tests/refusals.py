"""How a script refuses bad input."""

from __future__ import annotations


def assert_refused(ended: tuple[int, str, str], *words: str) -> None:
    """Check that a script ended with status 2 and one line that holds the words."""
    status, _, error = ended
    assert status == 2
    assert error.count("\n") == 1
    assert error.split(" ")[1] == "error:"
    for word in words:
        assert word in error
