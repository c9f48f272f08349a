"""What models write, as the report shows it."""

from __future__ import annotations

from hf_distill.evaluation.findings import Findings, Sample
from hf_distill.evaluation.page import Chapter, page
from hf_distill.evaluation.sections import of_findings


def test_samples_stand_side_by_side_and_are_shown_as_text() -> None:
    found = Findings(
        samples=[
            Sample(
                prompt="<script>alert(1)</script>", wanted="right", written={"student": "b<i>d", "teacher": "good"}
            ),
            Sample(prompt="next", wanted="", written={"student": "again"}),
        ]
    )
    assert Findings.model_validate_json(found.model_dump_json()) == found
    (part,) = of_findings(found)
    assert part.head == ("prompt", "in the data", "teacher", "student")
    assert part.rows[1] == ("next", "", "", "again")
    text = page("t", [Chapter(parts=[part])])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "b&lt;i&gt;d" in text
    assert "<script>alert" not in text
