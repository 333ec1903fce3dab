"""Verdicts on servers that nobody here wrote: nginx, FastAPI, Node."""

import shutil
import sys
from pathlib import Path

import pytest

from simulator.pytest_plugin import SlowReaders
from simulator.verdict import Outcome

SERVERS = Path(__file__).parent / "servers"
SIZE = 24 * 1024 * 1024
NGINX = """
daemon off; master_process on; worker_processes 2; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:PORT; root {folder}; }}
}}
"""


def test_nginx(slow_readers: SlowReaders, tmp_path: Path) -> None:
    """nginx serving a file: its processes are bounded, the kernel's buffers are not."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if not nginx:
        pytest.skip("nginx is not installed")
    tmp_path.chmod(0o755)
    (tmp_path / "file.bin").write_bytes(bytes(SIZE))
    template = tmp_path / "template.conf"
    template.write_text(
        "user root;" * (Path("/proc/self").owner() == "root") + NGINX.format(folder=tmp_path)
    )
    conf = tmp_path / "nginx.conf"
    script = f'sed "s/PORT/{{port}}/" {template} > {conf}; exec {nginx} -p {tmp_path} -c {conf}'
    url = slow_readers.start(f"sh -c '{script}'")
    verdict = slow_readers.judge(f"{url}/file.bin")
    assert verdict.process is Outcome.BOUNDED, verdict
    assert verdict.kernel is Outcome.OVER_BUDGET, verdict
    assert "process bounded, kernel over budget" in verdict.sentence


def test_fastapi(slow_readers: SlowReaders) -> None:
    """A StreamingResponse awaits its client: its processes are bounded, if not to 64 KiB."""
    url = slow_readers.start(
        f"{sys.executable} -m uvicorn --app-dir {SERVERS} fastapi_stream:app --port {{port}} "
        "--log-level warning --workers 2"
    )
    verdict = slow_readers.judge(
        f"{url}/export?size={SIZE}",
        small_url=f"{url}/export?size={SIZE // 3}",
        user_budget="512KiB",
        kernel_budget="64KiB",
    )
    assert verdict.process is Outcome.BOUNDED, verdict
    assert verdict.kernel is Outcome.OVER_BUDGET, verdict
    # What the workers hold is seen, and not only the process that was started.
    assert verdict.process_cost
    assert verdict.process_cost.value > 16 * 1024, verdict


def node(slow_readers: SlowReaders, script: str) -> str:
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    return slow_readers.start(f"node {SERVERS / script} {{port}}")


def test_node_that_pipes(slow_readers: SlowReaders) -> None:
    """A pipe waits for 'drain': the process is bounded, the kernel's buffers are not."""
    url = node(slow_readers, "node_pipe.js")
    verdict = slow_readers.judge(f"{url}/?size={SIZE}", user_budget="512KiB")
    assert verdict.process is Outcome.BOUNDED, verdict
    assert verdict.kernel is Outcome.OVER_BUDGET, verdict


def test_node_that_ignores_drain(slow_readers: SlowReaders) -> None:
    """Ignoring what write returns keeps the whole body in memory."""
    url = node(slow_readers, "node_ignores_drain.js")
    verdict = slow_readers.judge(f"{url}/?size={SIZE}", user_budget="512KiB")
    assert verdict.outcome is Outcome.UNBOUNDED, verdict
    assert verdict.process is Outcome.UNBOUNDED, verdict
