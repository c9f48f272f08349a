"""Objectives over what the models answer."""
