"""`python -m simulator` as a user runs it: what it says, and with which exit code it ends."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from simulator.launch import free_port
from simulator.pytest_plugin import SlowReaders
from simulator.selftest import serving
from tests.conftest import AUTHORIZATION_LINE, StartProcess

SIZE = 4 * 1024 * 1024
SERVERS = Path(__file__).parent / "servers"


def simulator(*words: str, folder: Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulator", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Strange(http.server.BaseHTTPRequestHandler):
    """Answers that are no body to try."""

    def do_GET(self) -> None:
        status = {"/moved": 302, "/missing": 404, "/secret": 401}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "20000")
        self.end_headers()
        self.wfile.write(bytes(20_000 if self.path != "/broken" else 5))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def strange() -> Iterator[str]:
    """A server of answers that will not do: its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/moved", 2, "a redirect to /elsewhere"),
        ("/missing", 2, "404"),
        ("/secret", 2, "-H 'Authorization: ...'"),
        ("/small", 3, "a body of 20,000 bytes is too small to prove anything"),
    ],
)
def test_an_answer_that_will_not_do(
    strange: str, tmp_path: Path, path: str, code: int, said: str
) -> None:
    """A redirect, an error, a 401 and a small body each have their own line, and no verdict."""
    result = simulator("run", strange + path, folder=tmp_path)
    assert result.returncode == code
    assert said in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir()), "no record of what was not tried"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["http://127.0.0.1:1/"], "nobody listens at http://127.0.0.1:1/"),
        (["ftp://127.0.0.1/"], "is not a URL"),
        (["http://no-such-host.invalid/"], "is the host's name right?"),
        (["URL", "--user-budget", "lots"], "--user-budget"),
        (["URL", "--kernel-budget", "-1"], "--kernel-budget"),
        (["URL", "--readers", "2"], "--readers"),
        (["URL", "--readers", "10000000"], "open files"),
        (["URL", "--profile", "drop"], "the profiles are steady, drip"),
        (["URL", "--profile", "drip:speed=3"], "it has size, every"),
        (["URL", "-H", "no colon"], "give -H 'Name: value'"),
        (["URL", "--pid", "4194303"], "there is no such process"),
        (["URL", "--pid", "OTHER"], "does not listen on port"),
        (["URL", "--command", "sleep 5"], "something listens on port"),
        (["URL", "--command", "sleep 5", "--pid", "1"], "name two servers"),
        (["URL", "--memory-url", "URL"], "--memory-url"),
        (["FREE", "--command", "false"], "it said: nothing"),
        (["FREE", "--command", "no-such-program"], "cannot be run"),
        (["URL", "--record", "/no/such/folder/record"], "--record"),
    ],
)
def test_wrong_usage(strange: str, tmp_path: Path, words: list[str], said: str) -> None:
    """What is wrong with the command line is told in one line, with exit code 2."""
    known = {"URL": strange, "FREE": f"http://127.0.0.1:{free_port()}/"}
    with subprocess.Popen(["sleep", "60"]) as other:
        known["OTHER"] = str(other.pid)
        result = simulator("run", *(known.get(word, word) for word in words), folder=tmp_path)
        other.kill()
    assert result.returncode == 2, result
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_dies(tmp_path: Path) -> None:
    """A server that is killed in mid-trial leaves no verdict, and the record of what was seen."""
    record = tmp_path / "record.ndjson"
    with serving("bounded") as (url, pid):
        command = [sys.executable, "-m", "simulator", "run", f"{url}?bytes={SIZE}"]
        trial = subprocess.Popen(
            [*command, "--no-self-test", "--record", str(record)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert trial.stderr
        for line in trial.stderr:  # a line for each part of the trial
            if "staircase" in line:
                os.kill(pid, 9)
                break
        said, _ = trial.communicate(timeout=60)
    assert trial.returncode == 3
    assert "the server died in mid-trial" in said
    again = simulator("report", str(record), folder=tmp_path)
    assert again.returncode == 3
    assert "INCONCLUSIVE" in again.stdout


def test_a_record_is_judged_and_shown_again(tmp_path: Path) -> None:
    """One run is reported in every format, and judged by other budgets, without another."""
    with serving("bounded") as (url, _):
        ran = simulator(
            *("run", f"{url}?bytes={SIZE}", "--readers", "40", "--quick", "--no-self-test"),
            *("--record", "here.ndjson"),
            folder=tmp_path,
        )
    assert ran.returncode == 0, ran
    assert "BOUNDED" in ran.stdout
    shown = simulator("report", "here.ndjson", "--format", "json", folder=tmp_path)
    assert json.loads(shown.stdout)["verdict"]["outcome"] == "bounded"
    strict = simulator("report", "here.ndjson", "--user-budget", "1KiB", folder=tmp_path)
    assert strict.returncode == 1
    assert "OVER BUDGET" in strict.stdout
    junit = simulator("report", "here.ndjson", "--format", "junit", folder=tmp_path)
    assert ElementTree.fromstring(junit.stdout).get("failures") == "0"
    page = simulator(
        *("report", "here.ndjson", "--format", "html", "-o", "page.html", "--png", "plot.png"),
        folder=tmp_path,
    )
    assert page.returncode == 0, page
    assert "<svg" in (tmp_path / "page.html").read_text("utf-8")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert simulator("report", "page.html", folder=tmp_path).returncode == 2
    lines = (tmp_path / "here.ndjson").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "part.ndjson").write_text("".join(lines[: len(lines) // 2]), "utf-8")
    part = simulator("report", "part.ndjson", folder=tmp_path)
    assert part.returncode == 3
    assert "breaks off" in part.stdout
    over = simulator("report", "here.ndjson", "--output", "here.ndjson", folder=tmp_path)
    assert over.returncode == 2
    assert (tmp_path / "here.ndjson").read_text("utf-8") == "".join(lines)
    twice = simulator("run", f"{url}?bytes={SIZE}", "--record", "here.ndjson", folder=tmp_path)
    assert twice.returncode == 2, "a record is not written over"


def test_ipv6(tmp_path: Path) -> None:
    """A server on ::1 is found by its port, and tried like any other."""
    port = free_port()
    result = simulator(
        *("run", f"http://[::1]:{port}/?bytes={SIZE}", "--readers", "40", "--quick"),
        *("--no-self-test", "--command"),
        f"{sys.executable} -m simulator.specimens bounded --host ::1 --port {port}",
        folder=tmp_path,
    )
    assert result.returncode == 0, result


def test_https(slow_readers: SlowReaders, tmp_path: Path) -> None:
    """Readers speak TLS, and hold a server up through it."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-out", str(files[0]), "-keyout", str(files[1])],
        check=True,
        capture_output=True,
    )
    url = slow_readers.start(
        f"{sys.executable} {SERVERS / 'tls_stream.py'} {{port}} {files[0]} {files[1]}"
    )
    url = url.replace("http:", "https:")
    verdict = slow_readers.judge(url, insecure=True, user_budget="512KiB")
    assert verdict.bounded, verdict
    refused = simulator("run", url, folder=tmp_path)
    assert refused.returncode == 2
    assert "certificate" in refused.stderr


def test_memory_by_a_metrics_page(spawn: StartProcess, table: Path, tmp_path: Path) -> None:
    """Process memory can come from the server's own Prometheus page."""
    service = spawn("--read-ahead-bytes", "1MiB", database=table)
    result = simulator(
        *("run", service.url + "/tasks/export.csv", "-H", AUTHORIZATION_LINE, "--quick"),
        *("--memory-url", service.url + "/metrics", "--memory-metric"),
        'weir_process_memory_bytes{kind="uss"}',
        *("--no-self-test", "--readers", "200", "--record", "here.ndjson"),
        folder=tmp_path,
    )
    assert result.returncode == 0, result
    samples = [json.loads(line) for line in (tmp_path / "here.ndjson").read_text().splitlines()]
    reported = [each["process"] for each in samples if each["type"] == "sample"]
    assert min(reported) > 10 * 1024 * 1024


def test_another_users_process() -> None:
    """Where memory cannot be read, it is said to be missing; tests/test_simulator_verdict.py
    holds that a trial without it is inconclusive."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else to see this")
    code = (
        "import encodings.idna, os, sys; from simulator.plan import make_plan; "
        "from simulator.target import find_target; os.seteuid(65534); "
        "print(find_target(make_plan(url=sys.argv[1])).missing)"
    )
    with serving("bounded") as (url, _):
        result = subprocess.run(
            [sys.executable, "-c", code, url], capture_output=True, text=True, check=True
        )
    assert "'process': " in result.stdout
    assert "run as root" in result.stdout


def test_an_interrupted_trial(tmp_path: Path) -> None:
    """SIGTERM ends the readers and the server that was started; the record is no verdict."""
    port = free_port()
    command = f"{sys.executable} -m simulator.specimens bounded --port {port}"
    trial = subprocess.Popen(
        [sys.executable, "-m", "simulator", "run", f"http://127.0.0.1:{port}/?bytes={SIZE}"]
        + ["--no-self-test", "--record", "here.ndjson", "--command", command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert trial.stderr
    for line in trial.stderr:
        if "staircase" in line:
            trial.terminate()
            break
    _, said = trial.communicate(timeout=60)
    assert trial.returncode == 130
    assert "interrupted" in said
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    shown = simulator("report", "here.ndjson", folder=tmp_path)
    assert shown.returncode == 3
    assert "the trial was interrupted" in shown.stdout


def test_slots_that_are_not_given_back(slow_readers: SlowReaders) -> None:
    """A server that loses a place with each reset, and then refuses everybody, is not green."""
    url = slow_readers.start(f"{sys.executable} {SERVERS / 'slots.py'} {{port}} 150")
    verdict = slow_readers.judge(url)
    assert verdict.exit_code == 3, verdict
    assert "refused (503)" in verdict.check("pressure").reason


def test_profiles_and_hold(tmp_path: Path) -> None:
    """`profiles` lists all nine; `hold` holds readers for as long as told, without a verdict."""
    listed = simulator("profiles", folder=tmp_path)
    assert len(listed.stdout.splitlines()) == 9
    with serving("bounded") as (url, _):
        held = simulator("hold", url, "--readers", "20", "--seconds", "0.1", folder=tmp_path)
    assert held.returncode == 0, held
    assert held.stdout.startswith("20 of 20 readers hold on")


def test_the_installed_command() -> None:
    """`weir-sim` is installed beside `weir`."""
    command = Path(sys.executable).with_name("weir-sim")
    result = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "self-test" in result.stdout
