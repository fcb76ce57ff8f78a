"""python -m benchmarks.gpu_check.child: run cases in this process, and print a line for each.

The first line of stdin is a JSON list of cases, each `{"call": "module:function", "arguments":
{...}}`; a result is `MARK` and JSON, either `{"value": ...}` or `{"error": "one line"}`. Imports
nothing but the standard library, so that an interpreter without TensorFlow can run it too.
"""

import importlib
import json
import os
import sys
import threading

MARK = "gpu-check-result "
_MAX_ERROR_CHARACTERS = 300
# Lines of TensorFlow's messages that say where a graph came from, and not what went wrong.
_ORIGINS = ("Graph execution error", "Detected at node", "<stack traces", "File ", "in user code")


def main() -> None:
    """Run the cases until the last one, or until the parent process is gone."""
    cases = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for case in cases:
        try:
            module, _, function = case["call"].partition(":")
            call = getattr(importlib.import_module(module), function)
            result = {"value": call(**case["arguments"])}
        except Exception as error:  # reported by the parent, as a line of its report
            result = {"error": one_line(error)}
        print(MARK + json.dumps(result), flush=True)


def one_line(error: BaseException) -> str:
    """Return the type of an error and the line of its message that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_ORIGINS)]
    text = f"{type(error).__name__}: {(telling or lines or ['no message'])[0]}"
    return text[:_MAX_ERROR_CHARACTERS]


def _exit_with_parent() -> None:
    """End this process when the parent closes the pipe, as its death does."""
    while os.read(sys.stdin.fileno(), 1):  # not by sys.stdin, whose lock the exit would wait for
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
