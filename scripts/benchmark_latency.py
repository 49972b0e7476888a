#!/usr/bin/env python
"""Compare what latency tables predict with the times of whole nets."""

from benchmarks.latency_tables import COMMAND

if __name__ == "__main__":
    COMMAND.main()
