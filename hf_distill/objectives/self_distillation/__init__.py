"""Objectives of a model with itself."""
