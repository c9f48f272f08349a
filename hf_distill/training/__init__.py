"""The parts of a `DistillationTrainer`, each with what it overrides of the Trainer."""
