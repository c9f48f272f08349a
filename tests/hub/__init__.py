"""Tests of records, cards and publishing."""
