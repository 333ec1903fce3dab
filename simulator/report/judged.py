"""What a report shows: a record, its name, and the verdict on it."""

from typing import NamedTuple

from ..plan import MIB
from ..record import Record, Sample
from ..verdict import Verdict, size


class Judged(NamedTuple):
    """A record with its verdict."""

    name: str
    record: Record
    verdict: Verdict

    def facts(self) -> dict[str, str]:
        """What was tried, on what, in words."""
        record, plan = self.record, self.record.plan
        found = {"URL": plan.url, "begun": record.started}
        if server := record.server:
            about = "at least " if server.at_least else ""
            body = f"{about}{size(server.body)}"
            if server.small_body:
                body += f", and {size(server.small_body)}"
            pids = ", ".join(map(str, server.pids)) or "unknown"
            found |= {"server": f"{server.program}, process {pids}", "body": body}
            if server.allocator:
                found["allocator"] = ", ".join(f"{k}={v}" for k, v in server.allocator.items())
            for part, reason in server.missing.items():
                found[f"missing: {part}"] = reason
        buffer = size(plan.receive_buffer) if plan.receive_buffer else "the system's"
        found["readers"] = f"{plan.readers}, {plan.profile}, receive buffer {buffer}"
        if machine := record.machine:
            memory = size(machine.memory)
            found["machine"] = f"{machine.system}, {machine.cores} cores, {memory} of memory"
        return found

    def peak(self, part: str) -> float | None:
        """The highest growth of a part over its level without readers, in MiB."""
        line = self.growth(part)
        return max((grown for _, grown in line), default=None)

    def growth(self, part: str) -> list[tuple[float, float]]:
        """Seconds, and MiB of a part above its level without readers."""
        samples = self.record.samples
        base = next(
            (_value(each, part) for each in samples if each.phase == "base" and each.settled), None
        )
        if base is None:
            return []
        return [
            (each.at, (value - base) / MIB)
            for each in samples
            if each.phase != "warm-up" and (value := _value(each, part)) is not None
        ]


def _value(sample: Sample, part: str) -> int | None:
    return sample.process if part == "process" else sample.kernel
