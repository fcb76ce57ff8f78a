"""One table of the verbs that read a run: how each is called, and what it writes."""

import dataclasses
from collections.abc import Callable

import pytest

from tests.verbs.sources import FINETUNING
from trainer.checkpoints import main
from trainer.evaluation import compare
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.finetuning import finetune
from trainer.evaluation.finetuning_options import FineTuning
from trainer.run import workdir
from trainer.serving.code_map import draw_map
from trainer.serving.export import export
from trainer.serving.options import StreamOptions
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode


@dataclasses.dataclass(frozen=True)
class Verb:
    """How a verb is called on a vae of vectors.

    Attributes:
      call: of the run, the folder of `inputs`, the folder to write to, and flags.
      outputs: the files that it writes there; none if it writes to the workdir or nothing.
    """

    call: Callable[..., object]
    outputs: tuple[str, ...] = ()


def _stream(verb, source):
    return lambda run, inputs, out, **flags: verb(
        str(run), f"{inputs}/{source}", f"{out}/{verb.__name__}.npz", StreamOptions(**flags)
    )


def _map(run, inputs, out, **flags):
    draw_map(str(run), f"{inputs}/rows.npy", output=str(out), options=StreamOptions(**flags))


def _sample(run, _, out, **flags):
    sample(str(run), 2, output=str(out), **flags)


def _export(run, _, out, **flags):
    export(str(run), f"{out}/export", formats=["keras"], **flags)


def _compare(run, _, out, **flags):
    compare.compare(compare.find([str(run)])[0], str(out), **flags)


def _verify(run, *_):
    with pytest.raises(SystemExit, match="False"):
        main(["verify", str(run)])


VERBS = {
    "evaluate": Verb(lambda run, *_: evaluate(str(run))),
    "finetune": Verb(lambda run, *_: finetune(str(run), FineTuning(**FINETUNING))),
    "encode": Verb(_stream(encode, "rows.npy"), ("encode.npz",)),
    "decode": Verb(_stream(decode, "codes.npy"), ("decode.npz",)),
    "denoise": Verb(_stream(denoise, "rows.npy"), ("denoise.npz",)),
    "map": Verb(_map, workdir.MAP),
    "sample": Verb(_sample, ("samples.npz", "samples.png")),
    "export": Verb(_export, ("export/card.json",)),
    "compare": Verb(_compare, (compare.TABLE, compare.FIGURE)),
    "verify": Verb(_verify),
}
