#!/usr/bin/env python
"""Show where the time of a training step goes, phase by phase and layer by layer."""

from benchmarks.training_step import COMMAND

if __name__ == "__main__":
    COMMAND.main()
