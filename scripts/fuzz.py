#!/usr/bin/env python
"""Damage files of every kind, and read each as the package does."""

from tools.fuzz import COMMAND

if __name__ == "__main__":
    COMMAND.main()
