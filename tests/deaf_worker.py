"""A worker of a training, in which nothing of TensorFlow's notices when another one is gone.

`python -m tests.deaf_worker --config=… --workdir=…`, as `python -m trainer`. After its first steps
each worker waits for ever in an operation of TensorFlow's, as it would in a collective one over
NCCL whose peer has died: gRPC's, which CPUs have, would fail.
"""

from unittest import mock

import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy
from tensorflow.python.eager import context

from trainer import __main__, cli, train

_SILENT_CALLS = 2  # before the operation that does not end


def main() -> None:
    make_steps = train.make_steps

    def make_deaf_steps(*arguments, **keywords):
        steps = make_steps(*arguments, **keywords)
        train_steps, calls = steps.train, iter(range(_SILENT_CALLS))

        def train_or_wait(*its_arguments, **its_keywords):
            if next(calls, None) is None:
                print("waits for ever", flush=True)
                tf.queue.FIFOQueue(1, tf.float32).dequeue()
            return train_steps(*its_arguments, **its_keywords)

        steps.train = train_or_wait
        return steps

    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    with (
        mock.patch.object(train, "make_steps", make_deaf_steps),
        # Neither of the two health checks that TensorFlow has: it takes one that is set for its own.
        mock.patch.object(extended, "_enable_check_health", False),
        mock.patch.object(context.Context, "coordination_service", "none"),
    ):
        __main__.main()


if __name__ == "__main__":
    cli.run(main)
