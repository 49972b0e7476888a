#!/usr/bin/env python
"""Run every pair of commands on one folder at once, and check what is left."""

from tools.pairs import COMMAND

if __name__ == "__main__":
    COMMAND.main()
