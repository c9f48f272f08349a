"""How good a student is: metrics, fidelity to the teacher, reports."""
