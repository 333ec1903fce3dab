"""The soak: a short one holds, and what checks its downloads finds each fault."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSV, NDJSON = "/tasks/export.csv", "/tasks/stream.ndjson"
HEAD = "id,title,priority,status\n"
WHOLE_CSV = HEAD + '1,a,1,pending\n2,"b\nc",2,completed\n3,version 2 of d,3,pending\n'
WHOLE_NDJSON = (
    '{"id":"1","title":"a","priority":1,"status":"pending"}\n'
    '{"id":"2","title":"b\\nc","priority":2,"status":"completed"}\n'
    '{"id":"3","title":"version 2 of d","priority":3,"status":"pending"}\n'
)
ROWS = [(1, "a", 1, "pending"), (2, "b\nc", 2, "completed")]


def test_a_short_soak_holds(tmp_path: Path) -> None:
    """Everything runs at once for some seconds, every promise holds, and nothing is left behind."""
    command = [sys.executable, str(ROOT / "scripts" / "soak.py"), "--minutes", "0.3"]
    command += ["--rows", "20000", "--readers", "60", "--change", "4"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "VERDICT: held" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("route", "text", "fault"),
    [
        (CSV, WHOLE_CSV, ""),
        (NDJSON, WHOLE_NDJSON, ""),
        (CSV, "", "first line"),
        (CSV, WHOLE_CSV[:-1], "no end"),
        (CSV, WHOLE_CSV[: WHOLE_CSV.index("c")], "behind row"),
        (CSV, HEAD + '1,a,1,pending\n2,"b\n', "unexpected end of data"),
        (CSV, HEAD + "1,a,1,pending\n", "missing: ids 2 to 2"),
        (CSV, WHOLE_CSV.replace("1,a,1,pending\n", ""), "missing: ids 1 to 1"),
        (CSV, WHOLE_CSV.replace("1,a", "1,a,1,pending\n1,a"), "id 1 comes after id 1"),
        (CSV, WHOLE_CSV.replace("1,a", "1,A"), "not as it was generated"),
        (CSV, WHOLE_CSV.replace("1,a,1", "1,a,"), "behind row 0"),
        (CSV, WHOLE_CSV[: WHOLE_CSV.index("3,")], "stored, but missing: 1 ids such as 3"),
        (CSV, WHOLE_CSV.replace("version 2", "version 1"), "older than version 2"),
        (CSV, WHOLE_CSV + "4,d,1,pending\n", "deleted, but there: 1 ids such as 4"),
        (CSV, WHOLE_CSV + "5,e,1,pending\n", "never stored, but there: 1 ids such as 5"),
        (NDJSON, WHOLE_NDJSON[:-1], "no end"),
        (NDJSON, WHOLE_NDJSON.replace('"priority":2,', ""), "no task"),
        (NDJSON, WHOLE_NDJSON.replace('{"id":"2"', '"id":"2"'), "behind row 1"),
        (NDJSON, WHOLE_NDJSON.replace('"id":"2"', '"id":2'), "another type"),
        (NDJSON, WHOLE_NDJSON.replace('"id":"2"', '"id":"1"'), "id 1 comes after id 1"),
    ],
    ids=count(),
)
def test_the_check_finds(
    route: str, text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is cut, lacks a row, has one twice or an old one is told from a whole one."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from soak_files import Expected, check, digest_of

    path = tmp_path / "file"
    path.write_bytes(text.encode())
    expected = Expected(2, digest_of(ROWS), {3: 2}, frozenset({4}), exact=True)
    found = check(path, route, expected)
    assert bool(found.faults) == bool(fault)
    assert fault in "; ".join(found.faults)
