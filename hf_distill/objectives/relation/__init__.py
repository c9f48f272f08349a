"""Objectives over how tokens, examples or layers relate to each other."""
