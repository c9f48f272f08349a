"""Objectives over what the models hold inside."""
