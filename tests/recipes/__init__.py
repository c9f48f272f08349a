"""Tests of the recipes that come with the package."""
