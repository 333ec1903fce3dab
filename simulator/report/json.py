"""The report for programs: plan, server and verdict as JSON, sizes in bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .judged import Judged


def render(judged: Sequence[Judged], *, color: bool = False) -> str:
    """An object for one record, an array for several."""
    found = [
        {
            "record": each.name,
            "started": each.record.started,
            "plan": each.record.plan.model_dump(mode="json"),
            "machine": each.record.machine and each.record.machine.model_dump(mode="json"),
            "server": each.record.server and each.record.server.model_dump(mode="json"),
            "verdict": each.verdict.model_dump(mode="json"),
        }
        for each in judged
    ]
    return json.dumps(found[0] if len(found) == 1 else found, indent=2)
