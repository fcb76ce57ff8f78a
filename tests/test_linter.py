"""What no file may do, whatever room it is in, the linter sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {  # by the linter's rule
    "S301": "pickle.loads(text)",
    "S302": "marshal.loads(text)",
    "S307": "eval(text)",
    "S102": "exec(text)",
    "S506": "yaml.load(text)",
    "S306": "tempfile.mktemp()",
    "S108": "open('/tmp/x')",
    "S602": "subprocess.run(text, shell=True)",
    "S605": "os.system(text)",
    "S104": "server.bind(('0.0.0.0', 80))",
    "S105": "password = 'hunter2'",
    "S113": "requests.get(text)",
    "S202": "tarfile.open(text).extractall()",
    "S310": "urllib.request.urlopen(text)",
    "S314": "xml.etree.ElementTree.fromstring(text)",
    "S324": "hashlib.md5(text)",
    "S501": "requests.get(text, timeout=1, verify=False)",
}
IMPORTED = (
    *("hashlib", "marshal", "os", "pickle", "requests", "subprocess", "tarfile", "tempfile"),
    *("urllib.request", "xml.etree.ElementTree", "yaml"),
)


@pytest.mark.parametrize("room", ["trainer", "launch", "configs", "benchmarks", "docs"])
def test_what_no_file_may_do_is_seen_in_every_room(room):
    text = "\n".join([*(f"import {name}" for name in IMPORTED), *FORBIDDEN.values()]) + "\n"
    told = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--output-format=json"),
            *(f"--stdin-filename={room}/new.py", "-"),
        ],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    seen = {(found["code"], found["location"]["row"]) for found in json.loads(told.stdout)}
    wanted = {(rule, len(IMPORTED) + row) for row, rule in enumerate(FORBIDDEN, start=1)}
    assert wanted <= seen, wanted - seen
