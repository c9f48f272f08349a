"""Prints the JSON schema of recipes."""

import json
import sys

from hf_distill.recipe import Recipe

if __name__ == "__main__":
    sys.stdout.write(json.dumps(Recipe.json_schema(), indent=2) + "\n")
