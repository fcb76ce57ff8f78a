"""Does what a person types, each command in a fork of one process that has imported what is slow.

    python -m tests.typed parse|run <commands.json

Each command is its words after `python`: `-m`, a module and flags, or a file. Prints, as JSON, the
exit status and the output of each; `run` ends after the first that fails. `parse` hands the flags
to the command's own parser, and goes no further.
"""

import json
import os
import runpy
import sys
import tempfile

from absl import app

FAILED = 1


def outcome(words, parse_only):
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            for descriptor in (1, 2):
                os.dup2(output.fileno(), descriptor)
            os._exit(status(words, parse_only))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.seek(0)
        return code, output.read().decode()


def status(words, parse_only):
    """Does the words in this process, which has no other use after that."""
    try:
        if parse_only:
            vars(app)["run"] = lambda _, flags_parser: flags_parser(sys.argv)
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main(mode):
    commands = json.load(sys.stdin)
    if mode == "run":
        import keras  # noqa: F401

    else:
        from ml_collections import config_flags  # noqa: F401
    outcomes = []
    for words in commands:
        outcomes.append(outcome(words, mode == "parse"))
        if mode == "run" and outcomes[-1][0]:
            break
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1])
