#!/usr/bin/env python
"""Measure what reconstruction saves of a pruned classifier, without training."""

from benchmarks.reconstruction import COMMAND

if __name__ == "__main__":
    COMMAND.main()
