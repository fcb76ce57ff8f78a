"""Launchers as processes: run to their end, or to be signalled and killed."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
LAUNCHER = -1


def run_launcher(name, *arguments, cwd=ROOT, **environment):
    """Runs `python -m launch.<name>` to its end, with some variables of the environment."""
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


class Launched:
    """A `launch.local` of two workers that runs; none of its processes outlives the block."""

    def __init__(self, run, settings, config="dense", max_restarts=9):
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        command = [
            *(sys.executable, "-m", "launch.local", "--workers=2"),
            *(f"--max_restarts={max_restarts}", "--"),
            *(f"--config=configs/{config}.py", f"--workdir={run}", *flags),
        ]
        self._output = run.with_suffix(".txt")  # a pipe would be full if nobody read it
        with self._output.open("a") as output:
            self._process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        self._seen: set[psutil.Process] = {self._process}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.workers()
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def poll(self):
        return self._process.poll()

    def output(self):
        """What the launcher and its workers have written."""
        return self._output.read_text()

    def workers(self):
        """The processes of the workers that are there now, by their index."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen |= set(self._process.children(recursive=True))
            for process in self._process.children():
                task = json.loads(process.environ().get("TF_CONFIG", "null"))
                if task:
                    found[task["task"]["index"]] = process
        return found

    def workers_after(self, before):
        """Both workers, once none of those before is left; none if the launcher has ended."""
        while self.poll() is None:
            now = self.workers()
            if len(now) == 2 and not set(now.values()) & set(before.values()):
                return now
            time.sleep(0.01)
        return {}

    def send(self, who, number):
        """Sends a signal to a worker, by its index, or to the launcher."""
        target = self._process if who == LAUNCHER else self.workers()[who]
        target.send_signal(number)

    def end(self):
        """The status of the launcher, once all processes that were seen are gone."""
        while self.poll() is None:
            self.workers()
            time.sleep(0.05)
        _, alive = psutil.wait_procs(self._seen, timeout=60)
        assert not alive, self.output()
        return self.poll()
