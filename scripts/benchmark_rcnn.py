#!/usr/bin/env python
"""Measure two-stage detectors: their cost, forward passes and training steps."""

from benchmarks.rcnn import COMMAND

if __name__ == "__main__":
    COMMAND.main()
