#!/usr/bin/env python
"""Time detectors in edge runtimes."""

from benchmarks.runtimes import COMMAND

if __name__ == "__main__":
    COMMAND.main()
