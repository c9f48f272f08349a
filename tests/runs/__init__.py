"""Runs: the kinds of tasks."""
