#!/usr/bin/env python
"""Measure detectors that are quantised or made sparse without training."""

from benchmarks.compression import COMMAND

if __name__ == "__main__":
    COMMAND.main()
