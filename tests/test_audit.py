"""A vulnerable pin fails the audit; an index that does not answer, or knows nothing, does not."""

import contextlib
import json
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

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


def test_each_pin_is_asked_for_and_a_vulnerable_one_named_with_its_fix(monkeypatch):
    with index(lambda name, _: {"vulns": [FLAW]} if name == "pillow" else {}) as (flags, asked):
        line = f"audit: pillow {dict(PINS)['pillow']} has GHSA-0000-0000-0000; fixed in 99.0"
        assert audit.audit(flags) == ([line], 1)
        normal = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in PINS}
        assert set(asked) == normal
        monkeypatch.setattr(audit, "ACCEPTED", {FLAW["id"]: "a reason"})
        passed = f"audit: none of {len(PINS)} pins has a known vulnerability"
        assert audit.audit(flags) == ([passed], 0)


def test_an_index_that_does_not_answer_gets_one_line_and_fails_nothing():
    with index(lambda *_: {}, status=503) as (flags, _):
        down = audit.audit(flags)
    unreachable = audit.audit(flags)  # nobody listens there any more
    for (line,), status in (down, unreachable):
        assert line.startswith("audit: no pin was audited: ")
        assert status == 0


def test_an_index_that_knows_no_package_gets_one_line(monkeypatch):
    answer = {"dependencies": [{"name": n, "skip_reason": "not found"} for n, _ in PINS]}
    done = subprocess.CompletedProcess([], 0, json.dumps(answer), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (line,), status = audit.audit()
    assert status == 0
    assert line.startswith(f"audit: {len(PINS)} of {len(PINS)} pins were not audited")


def test_an_audit_that_cannot_run_fails():
    (line, *_), status = audit.audit(["--no-such-flag"])
    assert status == 1
    assert "unrecognized arguments" in line
