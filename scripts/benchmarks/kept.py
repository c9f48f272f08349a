"""The scores of finished trainings in a file, from which tables are made: what stands there is not trained again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


class Kept:
    """Scores by the name of a trial, such as `pkd/2`: method, then seed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: dict[str, dict[str, float]] = {}
        if path.is_file():
            self.scores = json.loads(path.read_text(encoding="utf-8"))

    def add(self, trial: str, scores: Mapping[str, float]) -> None:
        """Put the scores of a trial into the file; it is read again first, as another process may have added to it."""
        self.scores = Kept(self.path).scores | {trial: dict(scores)}
        lines = [f"{json.dumps(name)}: {json.dumps(self.scores[name])}" for name in sorted(self.scores)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        whole.replace(self.path)

    def of(self, method: str) -> list[dict[str, float]]:
        """The scores of a method in every seed that is finished."""
        return [self.scores[trial] for trial in sorted(self.scores) if trial.rpartition("/")[0] == method]
