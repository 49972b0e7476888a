#!/usr/bin/env python
"""Time training steps with a teacher."""

from benchmarks.distillation import COMMAND

if __name__ == "__main__":
    COMMAND.main()
