#!/usr/bin/env python
"""Put a finished run into the model zoo."""

from tools.release import COMMAND

if __name__ == "__main__":
    COMMAND.main()
