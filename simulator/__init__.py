"""Deliberately slow readers for any HTTP server, and what they cost it.

What somebody new has to know about the whole, in the order in which a trial goes:

- `plan.py` holds what was asked for; `target.py` finds the server's processes and its port.
- `selftest.py` first asks whether this machine can tell a bounded server from an unbounded one,
  with the small servers of `specimens/`, whose verdicts are known.
- `fleet_process.py` runs the readers (`reader.py`, `fleet.py`) in a process of its own; `pacing.py`
  says how each of them reads: it stalls, drips, aborts, or mixes all that.
- `trial.py` raises their number step by step, holds them, and lets them come and go; at each step
  `survey.py` looks at both ends of every connection, and `probe.py` at the server's memory and at
  the kernel's send queues, from /proc.
- `record.py` writes down what was seen. Everything behind it reads the record only, so that it can
  be judged again: `checks.py` makes figures with intervals out of it (`estimate.py`), `judge.py`
  makes them a verdict (`verdict.py`), `report/` shows it as text, JSON, JUnit or HTML.

A verdict asks whether a cost is within a budget, with what certainty, and never whether a number
has moved; what straddles a budget is inconclusive. Nothing here imports the service: any server is
judged by HTTP and /proc alone. `pytest_plugin.py` makes a fixture of it, `command_line.py` a
command.
"""
