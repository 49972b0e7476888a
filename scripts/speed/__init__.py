"""Nets, workers and pages of scripts/benchmark.py."""
