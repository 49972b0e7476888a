#!/usr/bin/env python
"""Measure what training on several processes costs, and predict it for machines."""

from benchmarks.distributed import COMMAND

if __name__ == "__main__":
    COMMAND.main()
