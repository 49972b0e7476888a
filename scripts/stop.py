#!/usr/bin/env python
"""Stop every command by signals at random moments, and check what is left."""

from tools.stop import COMMAND

if __name__ == "__main__":
    COMMAND.main()
