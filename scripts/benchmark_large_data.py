#!/usr/bin/env python
"""Measure how large data sets are opened, batched and evaluated."""

from benchmarks.large_data import COMMAND

if __name__ == "__main__":
    COMMAND.main()
