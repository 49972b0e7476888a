#!/usr/bin/env python
"""Kill a process of a training on several ranks, and compare how it goes on."""

from tools.kill_ranks import COMMAND

if __name__ == "__main__":
    COMMAND.main()
