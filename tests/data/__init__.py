"""Tests of hf_distill.data."""
