"""Does what a person types, each command in a fork of one process that has imported what is slow.

    python -m tests.typed parse|light|run <commands.json

Each command is its words after `python`: `-m`, a module and flags, or a file. Prints, as JSON, the
exit status and the output of each. `parse` hands the flags to the command's own parser, and goes no
further; `light` fails a command that imports TensorFlow; `run` ends after the first that fails.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app

from trainer.cli import fork_server

ROOT = Path(__file__).parent.parent
FAILED = 1


def outcomes(mode, commands, cwd=ROOT, **environment):
    """The exit status and the output of each command."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.typed", mode],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def outcome(words, mode):
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            for descriptor in (1, 2):
                os.dup2(output.fileno(), descriptor)
            os._exit(status(words, mode))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.seek(0)
        return code, output.read().decode()


def status(words, mode):
    """Does the words in this process, which has no other use after that."""
    try:
        if mode == "parse":
            vars(app)["run"] = lambda _, flags_parser: flags_parser(sys.argv)
        fork_server.run(words)
    except SystemExit as end:
        if mode != "light" or "tensorflow" not in sys.modules:
            return end.code or 0
        print("TensorFlow was imported")
        return FAILED
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main(mode):
    for name in ("keras",) if mode == "run" else ("numpy", "ml_collections.config_flags"):
        importlib.import_module(name)
    done = []
    for words in json.load(sys.stdin):
        done.append(outcome(words, mode))
        if mode == "run" and done[-1][0]:
            break
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1])
