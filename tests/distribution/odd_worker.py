"""`python -m trainer` as a worker with a fault that a CPU does not have by itself.

`--oddity=stuck`: after its first steps each worker waits for ever in an operation, as in an
all-reduce by NCCL with a worker that has died; one by gRPC, as on CPUs, would fail.
`--oddity=slow`: writing a checkpoint takes longer than the watchdog waits for a lost worker.
"""

import contextlib
import time
from unittest import mock

import tensorflow as tf
from absl import flags
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.eager import context

from trainer import __main__, cli
from trainer.distribution import watchdog
from trainer.run import checkpoints
from trainer.training import setup

ODDITY = flags.DEFINE_enum("oddity", None, ["stuck", "slow"], "What is odd.", required=True)
STEPPING_CALLS = 2  # before the operation that does not end
SAVE_SECONDS = 8


@contextlib.contextmanager
def stuck():
    make_steps = setup.make_steps

    def make_stuck_steps(*arguments, **keywords):
        steps = make_steps(*arguments, **keywords)
        train_steps, calls = steps.train, iter(range(STEPPING_CALLS))

        def train_or_wait(*its_arguments, **its_keywords):
            if next(calls, None) is None:
                print("waits for ever", flush=True)
                tf.queue.FIFOQueue(1, tf.float32).dequeue()
            return train_steps(*its_arguments, **its_keywords)

        mock.patch.object(steps, "train", train_or_wait).start()
        return steps

    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    with (
        mock.patch.object(setup, "make_steps", make_stuck_steps),
        # Both health checks: it starts no coordination service where it sees one that is set.
        mock.patch.object(extended, "_enable_check_health", False),
        mock.patch.object(context.Context, "coordination_service", "another"),
    ):
        yield


@contextlib.contextmanager
def slow():
    write_arrays = checkpoints.write_arrays

    def write_slowly(*arguments):
        print("writes", flush=True)
        time.sleep(SAVE_SECONDS)
        return write_arrays(*arguments)

    with (
        mock.patch.object(checkpoints, "write_arrays", write_slowly),
        mock.patch.object(watchdog, "ATTEMPTS", 2),
    ):
        yield


def main() -> None:
    with {"stuck": stuck, "slow": slow}[ODDITY.value]():
        __main__.main()


if __name__ == "__main__":
    cli.run(main)
