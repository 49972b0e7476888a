#!/usr/bin/env python
"""Trace and prune GluonCV's models, and record how it went."""

from benchmarks.model_coverage import COMMAND

if __name__ == "__main__":
    COMMAND.main()
