"""What a recipe and its models are before anything is trained: the loss as a formula, what fits, what a step costs."""
