"""Objectives between models that learn together."""
