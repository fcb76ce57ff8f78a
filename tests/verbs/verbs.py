"""One table of the verbs that read a run: how each is called, and what it writes."""

import dataclasses
from collections.abc import Callable

from tests.verbs.sources import FINETUNING
from trainer.checkpoints import main as verify
from trainer.evaluation import compare
from trainer.evaluation.classifier import FineTuning, finetune
from trainer.evaluation.evaluate import evaluate
from trainer.serving.export import export
from trainer.serving.options import StreamOptions
from trainer.serving.prior_samples import sample
from trainer.serving.stream import decode, denoise, encode


@dataclasses.dataclass(frozen=True)
class Verb:
    """How a verb is called on a vae of vectors.

    Attributes:
      call: of the run, the folder of `inputs`, the folder to write to, and flags.
      output: a file that it writes there; "" if it writes to the workdir or nothing.
    """

    call: Callable[..., object]
    output: str = ""


def _stream(verb, source):
    return lambda run, inputs, out, **flags: verb(
        str(run), f"{inputs}/{source}", f"{out}/{verb.__name__}.npz", StreamOptions(**flags)
    )


VERBS = {
    "evaluate": Verb(lambda run, *_: evaluate(str(run))),
    "finetune": Verb(lambda run, *_: finetune(str(run), FineTuning(**FINETUNING))),
    "encode": Verb(_stream(encode, "rows.npy"), "encode.npz"),
    "decode": Verb(_stream(decode, "codes.npy"), "decode.npz"),
    "denoise": Verb(_stream(denoise, "rows.npy"), "denoise.npz"),
    "sample": Verb(
        lambda run, _, out, **flags: sample(str(run), 2, output=str(out), **flags), "samples.npz"
    ),
    "export": Verb(
        lambda run, _, out, **flags: export(str(run), f"{out}/export", formats=["keras"], **flags),
        "export/card.json",
    ),
    "compare": Verb(
        lambda run, _, out, **flags: compare.compare(
            compare.find([str(run)])[0], str(out), **flags
        ),
        compare.TABLE,
    ),
    "verify": Verb(lambda run, *_: verify(["verify", str(run)])),
}
