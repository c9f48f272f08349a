"""What holds for every objective, drawn from the registry."""
