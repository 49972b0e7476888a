#!/usr/bin/env python
"""Show which layers of detectors take the time, in float32 and in int8."""

from benchmarks.layer_times import COMMAND

if __name__ == "__main__":
    COMMAND.main()
