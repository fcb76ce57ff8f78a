"""Dense layers from the image to the code, mirrored back.

The widths are H*W*C - hidden_units - code_size - hidden_units reversed - H*W*C.
"""

import dataclasses

from trainer.models import settings

TINY = {"code_size": 3, "hidden_units": (8,)}


@dataclasses.dataclass(frozen=True)
class Settings(settings.Start, settings.DenseNetwork):
    """Declares the keys of the dense kind."""

    def stacked_layers(self) -> int:
        return len(self.hidden_units) + 1
