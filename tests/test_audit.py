"""A vulnerable pin fails the audit; an index that does not answer, or knows nothing, does not."""

import contextlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests import audit

PINS = re.findall(r"^([\w.-]+)==(\S+)", audit.PINS.read_text(), re.MULTILINE)
FLAW = {
    "id": "GHSA-0000-0000-0000",
    "summary": "lets anybody in",
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "pillow", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


@contextlib.contextmanager
def index(answer, status=200):
    """A server of vulnerabilities: the flags that lead to it, and a list of what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((question["package"]["name"], question["version"]))
            body = json.dumps(answer(*asked[-1])).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        yield ["--vulnerability-service=osv", f"--osv-url={address}", "--timeout=10"], asked
    finally:
        server.shutdown()
        server.server_close()


def test_pins_without_a_known_vulnerability_pass_and_each_is_asked_for():
    with index(lambda *_: {}) as (flags, asked):
        lines = [f"audit: none of {len(PINS)} pins has a known vulnerability"]
        assert audit.audit(flags) == (lines, 0)
    normal = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in PINS}
    assert set(asked) == normal


def test_a_vulnerable_pin_is_named_with_the_version_that_fixes_it_and_fails(monkeypatch):
    with index(lambda name, _: {"vulns": [FLAW]} if name == "pillow" else {}) as (flags, _):
        lines, status = audit.audit(flags)
        pinned = dict(PINS)["pillow"]
        assert lines == [f"audit: pillow {pinned} has GHSA-0000-0000-0000; fixed in 99.0"]
        assert status == 1
        monkeypatch.setattr(audit, "ACCEPTED", {FLAW["id"]: "a reason"})
        assert audit.audit(flags)[1] == 0


@pytest.mark.parametrize("status", [503, None], ids=["down", "unreachable"])
def test_an_index_that_does_not_answer_gets_one_line_and_fails_nothing(status):
    with contextlib.ExitStack() as scope:
        flags, _ = scope.enter_context(index(lambda *_: {}, status or 200))
        if status is None:
            scope.close()  # nobody listens there any more
        lines, exit_status = audit.audit(flags)
    assert (len(lines), exit_status) == (1, 0)
    assert lines[0].startswith("audit: no pin was audited: ")


def test_an_index_that_knows_no_package_gets_one_line(monkeypatch):
    answer = {"dependencies": [{"name": n, "skip_reason": "not found"} for n, _ in PINS]}
    done = subprocess.CompletedProcess([], 0, json.dumps(answer), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (line,), status = audit.audit()
    assert status == 0
    assert line.startswith(f"audit: {len(PINS)} of {len(PINS)} pins were not audited")


def test_an_audit_that_cannot_run_fails():
    lines, status = audit.audit(["--no-such-flag"])
    assert status == 1
    assert "unrecognized arguments" in lines[0]


def test_the_linter_refuses_unsafe_calls_in_the_product():
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename=trainer/new.py", "-"]
    text = "import pickle\n\nprint(pickle.loads(b''), eval('1'))\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert "S301" in done.stdout and "S307" in done.stdout
