#!/usr/bin/env python
"""Run every command that README and docs show."""

from tools.check_docs import COMMAND

if __name__ == "__main__":
    COMMAND.main()
