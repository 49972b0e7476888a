#!/usr/bin/env python
"""Measure training speed on real images."""

from benchmarks.data_loading import COMMAND

if __name__ == "__main__":
    COMMAND.main()
