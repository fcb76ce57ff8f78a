"""Dense layers from the image to the code, mirrored back.

The widths are H*W*C - hidden_units - code_size - hidden_units reversed - H*W*C.
"""

import dataclasses

from trainer.config import key
from trainer.errors import require
from trainer.models import settings

TINY = {"code_size": 3, "hidden_units": (8,), "dropout": 0.25}


@dataclasses.dataclass(frozen=True)
class Settings(settings.Start, settings.DenseNetwork):
    """Declares the keys of the dense kind."""

    dropout: float = key(
        0.0,
        "Share of the hidden units set to 0, drawn anew each step of the training of all layers.",
        at_least=0,
        below=1,
    )

    def check(self) -> None:
        super().check()
        require(
            not self.dropout or len(self.hidden_units) > 0,
            f"model.dropout={self.dropout} is not allowed with model.hidden_units=(), which leaves "
            "no hidden units to drop",
        )

    def stacked_layers(self) -> int:
        return len(self.hidden_units) + 1
