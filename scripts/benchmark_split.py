#!/usr/bin/env python
"""Measure when it pays to split a detector between a device and a server."""

from benchmarks.split import COMMAND

if __name__ == "__main__":
    COMMAND.main()
