"""Records written down and read back, judged again by other budgets, and reported."""

import json
import re
import xml.etree.ElementTree as ET
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import estimate
from simulator.errors import EXIT_USAGE, UsageError
from simulator.judge import judge
from simulator.plan import GIB, KIB, MIB, make_plan
from simulator.record import FaultLine, PlanLine, Record, read_record
from simulator.report import FORMATS, Judged, plot
from simulator.verdict import Outcome, Status
from tests.test_simulator_verdict import BODY, BUDGET, DIED, GOOD, GREW, Made

EXAMPLES = settings(max_examples=60, deadline=None, database=None)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MALICIOUS = "http://h/?<script>alert(1)</script>&a=\"'><img src=http://evil/>"
TRIALS = {
    "good": GOOD,
    "whole bodies": Made(process=BODY, small=False),
    "sheds": Made(odd=12, fate="dropped"),
    "refuses": Made(odd=40, fate="refused"),
    "not seen": Made(missing=("process",)),
    "kernel not seen": Made(missing=("kernel",)),
    "died": Made(stop="staircase 40", fault=DIED),
    "grew": Made(process=60 * MIB, stop="staircase 40", fault=GREW),
    "never begun": Made(stop="warm-up", fault=DIED),
    "no dose": Made(small=False, self_test=None),
    "malicious": Made(plan=(("url", MALICIOUS),)),
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals by fewer draws: figures made up have none that need more."""
    monkeypatch.setattr(estimate, "RESAMPLES", 20)


@cache
def judged(name: str) -> Judged:
    record = TRIALS[name].record()
    return Judged(name, record, judge(record))


@cache
def shown(name: str, format_: str) -> str:
    """The report of one trial."""
    return FORMATS[format_]([judged(name)])


class Page(HTMLParser):
    """The tags of an HTML page, and where they lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.leads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name.rpartition(":")[2] in ("src", "href", "srcset", "action", "data"):
                self.leads.add(value or "")


def write(path: Path, record: Record) -> Path:
    """Write down what a record holds, line by line, as a trial does."""
    with path.open("w", encoding="utf-8") as file:
        written = Record(record.plan, file)
        written.add(PlanLine(started=record.started, plan=record.plan))
        for line in (record.machine, record.server, record.self_test):
            if line:
                written.add(line)
        for lines in (record.phases, record.samples, record.readers):
            for each in lines:
                written.add(each)
        for last in (record.fault, record.end):
            if last:
                written.add(last)
    return path


def contents(record: Record) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name != "_file"}


@pytest.mark.parametrize("name", TRIALS)
def test_a_record_is_read_back(name: str, tmp_path: Path) -> None:
    """A record that was written down holds the same when it is read, and has the same verdict."""
    known = judged(name)
    found = read_record(write(tmp_path / "a.ndjson", known.record))
    assert contents(found) == contents(known.record)
    assert judge(found) == known.verdict


@EXAMPLES
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Zl", "Zp", "Cc"])))
def test_any_message_is_read_back(text: str) -> None:
    """Whatever a message or a URL holds, it is read as it was written."""
    assert round_trip(text) == text


@pytest.mark.parametrize(
    "place",
    ["\n", "\r", "\0", "\x1e", "\x7f", "\\", '"']
    + [pytest.param(place) for place in ("\x85", "\u2028", "\u2029")],
)
def test_a_line_end_in_a_message(place: str) -> None:
    """What somebody else ends lines by, as in a hostile server's status, ends no line."""
    assert round_trip(f"a{place}b") == f"a{place}b"


def round_trip(text: str) -> str:
    """What is read of a fault's message."""
    with TemporaryDirectory() as folder:
        record = Record(make_plan(url=f"http://h/{text}"))
        record.fault = FaultLine(at=1.0, message=text)
        found = read_record(write(Path(folder) / "a.ndjson", record))
    assert found.plan.url == record.plan.url
    assert found.fault
    return found.fault.message


PLAN_LINE = PlanLine(started="", plan=make_plan(url="http://h/")).model_dump_json()
FAULT_LINE = DIED.model_dump_json()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no plan in its first line"),
        ([FAULT_LINE], "no plan in its first line"),
        ([FAULT_LINE, PLAN_LINE], "no plan in its first line"),
        (["{}"], "line 1"),
        (["hello"], "line 1"),
        (["", PLAN_LINE], "line 1"),
        ([PLAN_LINE, "hello"], "line 2"),
        ([PLAN_LINE, FAULT_LINE, FAULT_LINE[:-9]], "line 3"),
        ([PLAN_LINE, FAULT_LINE.replace("at", "when")], "line 2"),
        ([PLAN_LINE, FAULT_LINE.replace("fault", "joke")], "line 2"),
        ([PLAN_LINE, "[]"], "line 2"),
        ([PLAN_LINE.replace('"version":1', '"version":2')], "line 1"),
        ([PLAN_LINE.replace('"readers":200', '"readers":2')], "line 1"),
        pytest.param([PLAN_LINE.replace("stall", "sprint")], "line 1"),
    ],
)
def test_no_record(lines: list[str], said: str, tmp_path: Path) -> None:
    """What is no record is named, with the line that is wrong."""
    path = tmp_path / "a.ndjson"
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    with pytest.raises(UsageError) as caught:
        read_record(path)
    assert f"{path}" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there, is a folder, or is no text, is named."""
    (tmp_path / "binary").write_bytes(PNG_SIGNATURE)
    for name in ("missing", "", "binary"):
        with pytest.raises(UsageError, match=re.escape(str(tmp_path / name))):
            read_record(tmp_path / name)


@pytest.mark.parametrize(
    ("budgets", "outcome"),
    [
        ({}, Outcome.BOUNDED),
        ({"user_budget": 25 * KIB, "kernel_budget": 35 * KIB}, Outcome.BOUNDED),
        ({"user_budget": 20 * KIB}, Outcome.INCONCLUSIVE),
        ({"user_budget": 10 * KIB}, Outcome.OVER_BUDGET),
        ({"kernel_budget": 10 * KIB}, Outcome.OVER_BUDGET),
        ({"user_budget": MIB, "kernel_budget": MIB}, Outcome.BOUNDED),
    ],
)
def test_judged_again(budgets: dict[str, int], outcome: Outcome) -> None:
    """The same record is judged by other budgets without another trial, and stays as it is."""
    record = GOOD.record()
    user, kernel = budgets.get("user_budget"), budgets.get("kernel_budget")
    verdict = judge(record, user_budget=user, kernel_budget=kernel)
    assert verdict.outcome is outcome
    assert verdict.user_budget == (user or BUDGET)
    assert verdict.kernel_budget == (kernel or BUDGET)
    assert judge(record).outcome is Outcome.BOUNDED


@pytest.mark.parametrize(
    "record",
    [
        GOOD.record(process=BODY, small=False),
        GOOD.record(leak=30 * MIB, stop="ratchet 2", fault=GREW),
    ],
    ids=["a body that cannot prove it", "growth past the ceiling"],
)
def test_no_budget_makes_it_bounded(record: Record) -> None:
    """A server that was unbounded is never green, however high a budget is set later."""
    assert judge(record).outcome is Outcome.UNBOUNDED
    assert not judge(record, user_budget=GIB).passed


def test_a_slope_of_few_looks() -> None:
    """Few looks have a slope, with an interval around it, and nobody is warned of anything."""
    found = estimate.slope([0.0, 1.0, 2.0], [5.0, 7.0, 9.0])
    assert found == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", TRIALS)
def test_every_report_has_the_verdict(name: str, format_: str) -> None:
    """Whatever became of a trial, each report can be made, and says so."""
    known, text = judged(name), shown(name, format_)
    outcome = known.verdict.outcome
    if format_ != "junit" or not known.verdict.passed:
        assert (outcome.upper() if format_ == "text" else outcome) in text
    for check in known.verdict.checks:
        assert check.name in text


@pytest.mark.parametrize("name", ["good", "not seen", "grew", "never begun"])
def test_png(name: str) -> None:
    """The plot of any trial is a PNG."""
    assert plot.draw([judged(name)], "png").startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("format_", list(FORMATS))
def test_a_record_gives_one_report(format_: str) -> None:
    """The same record gives the same report."""
    assert FORMATS[format_]([judged("good")]) == shown("good", format_)


@pytest.mark.parametrize("name", TRIALS)
def test_json(name: str) -> None:
    """The report for programs holds plan, server and verdict, with sizes in bytes."""
    known = judged(name)
    found = json.loads(shown(name, "json"), parse_constant=pytest.fail)
    assert found["record"] == name
    assert found["plan"] == known.record.plan.model_dump(mode="json")
    assert found["plan"]["user_budget"] == found["verdict"]["user_budget"] == BUDGET
    assert found["server"]["body"] == BODY
    assert found["verdict"]["outcome"] == known.verdict.outcome
    assert found["verdict"]["exit_code"] == known.verdict.exit_code
    assert [each["name"] for each in found["verdict"]["checks"]] == [
        check.name for check in known.verdict.checks
    ]


@pytest.mark.parametrize("name", TRIALS)
def test_junit(name: str) -> None:
    """JUnit XML counts a failure for a failed check, an error for an inconclusive one, a skip for
    one not run, and one more for a verdict that is not green."""
    verdict = judged(name).verdict
    root = ET.fromstring(shown(name, "junit"))
    statuses = [check.status for check in verdict.checks]
    inconclusive = verdict.outcome is Outcome.INCONCLUSIVE
    expected = {
        "tests": len(statuses) + 1,
        "failures": statuses.count(Status.FAILED) + (not verdict.passed and not inconclusive),
        "errors": statuses.count(Status.UNCLEAR) + inconclusive,
        "skipped": statuses.count(Status.NOT_RUN),
    }
    (suite,) = root.iter("testsuite")
    assert {key: int(suite.attrib[key]) for key in expected} == expected
    for key, tag in {"failures": "failure", "errors": "error", "skipped": "skipped"}.items():
        assert len(list(suite.iter(tag))) == expected[key]


def test_junit_of_several_is_counted_up() -> None:
    """The root of the report has the sums over its suites."""
    root = ET.fromstring(FORMATS["junit"]([judged("good"), judged("refuses")]))
    for key in ("tests", "failures", "errors", "skipped"):
        assert int(root.attrib[key]) == sum(int(suite.attrib[key]) for suite in root)


@pytest.mark.parametrize("name", TRIALS)
def test_html_is_self_contained(name: str) -> None:
    """The page has its plot inside, runs nothing, and asks nobody for anything."""
    text = shown(name, "html")
    page = Page(text)
    assert "svg" in page.tags
    assert not page.tags & {"script", "img", "link", "iframe", "object", "base", "form", "image"}
    assert all(lead.startswith("#") for lead in page.leads)
    assert "@import" not in text
    assert all(lead.startswith("#") for lead in re.findall(r"url\(([^)]*)\)", text))


def test_html_escapes() -> None:
    """A URL, a record's name or a server's status is shown as text, whatever it holds."""
    known = refusing("<i>")
    record = known.record
    record.plan = record.plan.model_copy(update={"url": MALICIOUS})
    assert record.server
    record.server = record.server.model_copy(update={"program": "<b>x</b>"})
    text = FORMATS["html"]([Judged("--><script>x", record, known.verdict)])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;b&gt;x" in text
    assert "refused (&lt;i&gt;)" in text
    for raw in ("<script", "<img", "<b>", "<i>", "evil/>"):
        assert raw not in text


def refusing(status: str) -> Judged:
    """A server that answers each reader with a status line of its choice."""
    record = Made(odd=40, fate="refused").record()
    record.readers = [
        each.model_copy(update={"fault": status}) if each.fault else each for each in record.readers
    ]
    return Judged("refusing", record, judge(record))


@pytest.mark.parametrize("status", ["[/]", "[b]"])
def test_text_shows_a_hostile_status(status: str) -> None:
    """A server's status stands in the check and in the sentence as it was, brackets and all."""
    assert FORMATS["text"]([refusing(status)]).count(f"refused ({status})") == 2


@pytest.mark.parametrize("status", ["\0\1\2", "\x1b[m"])
def test_junit_of_a_hostile_status(status: str) -> None:
    """JUnit XML is well-formed, whatever bytes a server sends for its status."""
    ET.fromstring(FORMATS["junit"]([refusing(status)]))


@pytest.mark.parametrize(
    ("name", "format_"),
    [(name, format_) for name in ("plain", "50$ to $60", "{{x}}<b>") for format_ in FORMATS]
    + [
        pytest.param("run[quick]", "text"),
        pytest.param(r"$\no{$", "html"),
    ],
)
def test_any_file_name_is_shown(name: str, format_: str) -> None:
    """A record is shown under its file's name, whatever that holds."""
    known = judged("good")
    renamed = Judged(name, known.record, known.verdict)
    text = FORMATS[format_]([renamed, known] if format_ == "text" else [renamed])
    assert name in unescape(text).split("verdict")[0]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_record_of_nothing(format_: str) -> None:
    """A trial that could not even begin has a report."""
    record = Record(make_plan(url="http://h/"))
    assert "inconclusive" in FORMATS[format_]([Judged("x", record, judge(record))]).lower()


@pytest.mark.parametrize("part", ["process", "kernel"])
def test_a_plot_with_one_look_missing(part: str) -> None:
    """A figure that was missing for one look is left out of the plot there."""
    record = GOOD.record()
    record.samples[20] = record.samples[20].model_copy(update={part: None})
    found = Judged("x", record, judge(record))
    assert plot.draw([found], "png").startswith(PNG_SIGNATURE)


def test_side_by_side() -> None:
    """Several records stand beside each other in each report, under their names."""
    names = ["good", "whole bodies", "kernel not seen"]
    several = [judged(name) for name in names]
    found = json.loads(FORMATS["json"](several))
    assert [each["record"] for each in found] == names
    root = ET.fromstring(FORMATS["junit"](several))
    assert [suite.attrib["name"] for suite in root.iter("testsuite")] == names
    html, text = FORMATS["html"](several), FORMATS["text"](several)
    assert html.count("<svg") == len(names) + 1
    assert [html.count(f"<h2>{name}</h2>") for name in names] == [1, 1, 1]
    head = next(line for line in text.splitlines() if all(name in line for name in names))
    assert head.split() == " ".join(names).split()
    row = next(line for line in text.splitlines() if line.split()[:1] == ["verdict"])
    assert row.split() == ["verdict", "BOUNDED", "UNBOUNDED", "INCONCLUSIVE"]
    assert plot.draw(several, "png").startswith(PNG_SIGNATURE)


def test_text_has_no_color_unless_asked() -> None:
    """The report for a terminal has colours there, and none in a file."""
    assert "\x1b[" not in FORMATS["text"]([judged("sheds")])
    assert "\x1b[" in FORMATS["text"]([judged("sheds")], color=True)
