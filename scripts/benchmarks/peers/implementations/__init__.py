"""One file an implementation: `run(workload, teacher, student, data)` trains until the data end.

Each takes the batches in order, with AdamW at 1e-4 and weight decay 0.01, fused, at a constant rate and without
clipping.
"""
