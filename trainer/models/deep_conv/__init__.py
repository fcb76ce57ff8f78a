"""Convolutions of stride 2, a dense layer and a linear code of any size, mirrored back."""

import dataclasses

from trainer.models import settings

TINY = {
    "code_size": 3,
    "stage_filters": (3,),
    "dense_units": 8,
    "residual_blocks": 1,
    "normalisation": "group",
}


@dataclasses.dataclass(frozen=True)
class Settings(
    settings.Start,
    settings.ConvStages,
    settings.CodeSize,
    settings.Reconstruction,
):
    """Declares the keys of the deep_conv kind."""

    for_vectors = None

    code_size: int = 49
