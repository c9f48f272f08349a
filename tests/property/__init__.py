"""What holds for any numbers."""
