"""A vulnerable pin fails the audit; who cannot be asked, or knows nothing, does not."""

import contextlib
import json
import re
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
    """A server of vulnerabilities, as the flags that lead there; and what it is asked."""
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
        yield of_osv(server.server_port), asked
    finally:
        server.shutdown()
        server.server_close()


def of_osv(port):
    return ["--vulnerability-service=osv", f"--osv-url=http://127.0.0.1:{port}/", "--timeout=10"]


def test_pins_without_a_known_vulnerability_pass_and_each_is_asked_for():
    with index(lambda *_: {}) as (flags, asked):
        assert audit.audit(flags) == (
            [f"audit: none of {len(PINS)} pins has a known vulnerability"],
            0,
        )
    normal = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in PINS}
    assert {(name, version) for name, version in asked} == normal


def test_a_vulnerable_pin_is_named_with_what_mends_it_and_fails(monkeypatch):
    with index(lambda name, _: {"vulns": [FLAW]} if name == "pillow" else {}) as (flags, _):
        lines, status = audit.audit(flags)
        pinned = dict(PINS)["pillow"]
        assert lines == [f"audit: pillow {pinned} has GHSA-0000-0000-0000; fixed in 99.0"]
        assert status == 1
        monkeypatch.setattr(audit, "ACCEPTED", {FLAW["id"]: "a reason"})
        assert audit.audit(flags)[1] == 0


def test_what_is_accepted_has_a_reason():
    assert all(len(reason) > 20 for reason in audit.ACCEPTED.values())


def test_an_index_that_cannot_be_reached_gets_one_line_and_fails_nothing():
    with index(lambda *_: {}) as (flags, _):
        pass
    lines, status = audit.audit(flags)  # where nobody listens any more
    assert status == 0
    assert len(lines) == 1
    assert lines[0].startswith("audit: no pin was audited: ")


def test_an_index_that_is_down_gets_one_line_and_fails_nothing():
    with index(lambda *_: {}, status=503) as (flags, _):
        lines, status = audit.audit(flags)
    assert (len(lines), status) == (1, 0)


def test_an_index_that_tells_nothing_gets_one_line(monkeypatch):
    told = {"dependencies": [{"name": n, "skip_reason": "not found"} for n, _ in PINS]}
    done = audit.subprocess.CompletedProcess([], 0, json.dumps(told), "")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    lines, status = audit.audit()
    assert status == 0
    assert len(lines) == 1
    assert lines[0].startswith(f"audit: {len(PINS)} of {len(PINS)} pins were not audited")


def test_an_audit_that_cannot_run_fails():
    lines, status = audit.audit(["--no-such-flag"])
    assert status == 1
    assert "unrecognized arguments" in lines[0]
