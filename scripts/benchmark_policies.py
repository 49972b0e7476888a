#!/usr/bin/env python
"""Compare policies of pruning and searches, and what repairs a cut."""

from benchmarks.policies import COMMAND

if __name__ == "__main__":
    COMMAND.main()
