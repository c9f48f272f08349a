"""The sections of a recipe: their keys, the kinds of their values, and what each demands of itself."""
