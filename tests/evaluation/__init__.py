"""Tests of hf_distill.evaluation."""
