"""Whole jobs, one file a toolkit: `run(job)` reads the text, trains the student and leaves it in `job.folder`."""
