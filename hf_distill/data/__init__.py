"""Data sets: the GLUE tasks, own files, tokenisation, samplers."""
