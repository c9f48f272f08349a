"""How the tensors of a model are read while it runs."""
