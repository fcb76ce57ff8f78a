"""python -m trainer.evaluate --workdir=runs/conv"""

from typing import Any

from absl import flags

from trainer import cli
from trainer.errors import require

_WORKDIR = cli.workdir_flag()
_CHECKPOINT = cli.checkpoint_flag()
_DATA = cli.data_flag()
_NORMAL = flags.DEFINE_list(
    "normal_label", [], "Classes that are normal, by name or label; the others are anomalies."
)
_ANOMALY = flags.DEFINE_list(
    "anomaly_label", [], "Classes that are anomalies, by name or label; the others are normal."
)
_QUANTILE = flags.DEFINE_float(
    "error_quantile",
    0.0,
    "Keep this quantile of the validation errors and distances as thresholds, for the columns "
    "is_anomaly and is_anomaly_by_distance of encode --errors. Default: the quantile that was "
    "given before, if any.",
)
_CONTAMINATION = flags.DEFINE_float(
    "contamination", 0.0, "The same as --error_quantile of 1 minus this share of anomalies."
)
flags.adopt_module_key_flags(cli)


def check() -> None:
    """Raises UserError for wrong flags that need no data to be found wrong."""
    cli.check_run()
    _options().check()


def main() -> None:
    """Runs the command."""
    from trainer.evaluation.evaluate import evaluate, print_table

    metrics = evaluate(_WORKDIR.value, _CHECKPOINT.value, _DATA.value, _options())
    print_table(metrics, _WORKDIR.value)


def _options() -> Any:
    from trainer.evaluation.anomaly_options import AnomalyOptions

    quantile, contamination = _QUANTILE.value, _CONTAMINATION.value
    require(
        not (quantile and contamination),
        "error_quantile and contamination are both given; each follows from the other",
    )
    require(
        0 <= contamination < 1,
        f"contamination={contamination} is not allowed; it must be at least 0 and below 1",
    )
    if contamination:
        quantile = 1 - contamination
    return AnomalyOptions(_NORMAL.value, _ANOMALY.value, quantile)


if __name__ == "__main__":
    cli.run(main, check)
