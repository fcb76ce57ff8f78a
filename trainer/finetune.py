"""python -m trainer.finetune --workdir=runs/contractive"""

import math

from absl import flags

from trainer import cli

_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_DATA = cli.data_flag()
_NUM_EPOCHS = flags.DEFINE_integer("num_epochs", 20, "Most passes over the labelled images.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Images per step, over all replicas.", 1)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 3e-3, "Highest learning rate of the schedule, for Adam."
)
_SCHEDULE = flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["constant", "cosine"],
    "Schedule of the learning rate; cosine falls to 0 at the end of num_epochs.",
)
_PATIENCE_EPOCHS = flags.DEFINE_integer(
    "patience_epochs", 10, "End after this many epochs without a better validation error.", 1
)
_LABELS = flags.DEFINE_integer(
    "labels", 0, "Number of labelled images to learn from, chosen at random; 0: all.", 0
)
_FROM_SCRATCH = flags.DEFINE_bool(
    "from_scratch", False, "Begin with the weights that the run began with, as a baseline."
)
flags.adopt_module_key_flags(cli)
flags.register_validator(
    "learning_rate", lambda rate: 0 < rate < math.inf, "it must be above 0 and finite."
)


def main() -> None:
    """Runs the command."""
    from trainer.evaluation.classifier import FineTuning, finetune, print_table

    settings = FineTuning(
        num_epochs=_NUM_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        schedule=_SCHEDULE.value,
        patience_epochs=_PATIENCE_EPOCHS.value,
        labels=_LABELS.value,
        from_scratch=_FROM_SCRATCH.value,
    )
    print_table(finetune(_WORKDIR.value, settings, _CHECKPOINT.value, _DATA.value), _WORKDIR.value)


if __name__ == "__main__":
    cli.run(main, cli.check_run)
