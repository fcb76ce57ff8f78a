"""python -m tests.audit: fails if a pinned package has a known vulnerability (make audit).

An index that does not answer, or does not know a package, gets a line and no failure. All arguments
are passed on to pip-audit.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PINS = Path(__file__).parent.parent / "constraints.txt"
# The vulnerabilities that may stay, by number (PYSEC-..., GHSA-..., CVE-...), each with a reason:
# that tensorflow 2.21 fits no version without it, and why it cannot be reached here.
ACCEPTED: dict[str, str] = {}
_NO_ANSWER = "connect|resolve|timed? ?out|unreachable"
_NO_SERVICE = "50[234] Server Error"  # in the traceback that pip-audit then ends with
_MAX_NAMES = 5


def audit(flags: Sequence[str] = ()) -> tuple[list[str], int]:
    """Returns the lines to print and the exit status, 1 if a pin is vulnerable."""
    command = [
        *(sys.executable, "-m", "pip_audit", f"--requirement={PINS}", "--no-deps", "--disable-pip"),
        *("--format=json", "--progress-spinner=off", "--desc=off"),
        *(f"--ignore-vuln={number}" for number in ACCEPTED),
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        why = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        silent = re.search(_NO_ANSWER, why, re.IGNORECASE) or re.search(_NO_SERVICE, done.stderr)
        return [f"audit: no pin was audited: {why}"], 0 if silent else 1
    lines = []
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        more = len(unknown) - _MAX_NAMES
        names = ", ".join(unknown[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
        lines.append(
            f"audit: {len(unknown)} of {len(packages)} pins were not audited; the index does "
            f"not know {names}"
        )
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", [])]
    for package, flaw in found:
        fixed = ", ".join(flaw["fix_versions"]) or "no version"
        lines.append(
            f"audit: {package['name']} {package['version']} has {flaw['id']}; fixed in {fixed}"
        )
    if not lines:
        lines.append(f"audit: none of {len(packages)} pins has a known vulnerability")
    return lines, 1 if found else 0


if __name__ == "__main__":
    lines, status = audit(sys.argv[1:])
    print(*lines, sep="\n")
    sys.exit(status)
