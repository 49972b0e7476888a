#!/usr/bin/env python
"""Run a set of experiments with detectors, and write its page."""

from experiments.detectors import COMMAND

if __name__ == "__main__":
    COMMAND.main()
