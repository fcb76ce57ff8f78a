"""The concrete autoencoder: the code is k of the image's own pixels (Abid et al. 2019).

The model has k selectors over the D values of an image, and a dense decoder of the selected
values. In training selector j takes the mixture of pixels m_j = softmax((logits_j + Gumbel) / T),
a sample of the concrete distribution (Maddison et al. 2017, Jang et al. 2017), while T falls
exponentially. In the last `settled_share` of the steps, in evaluation and in `encode`, each
selector takes one pixel, by `distinct_choice` of the logits: k pixels, no two the same, from which
alone the image is reconstructed.
"""

import dataclasses

from trainer.config import key
from trainer.errors import require
from trainer.models import settings

SETTLED_ABOVE = 0.998  # the authors' limit of the mean largest probability
TINY = {"code_size": 4, "hidden_units": (8,)}


def advice(mean_largest_probability: float) -> str:
    """Returns a line for the user if the selectors have not settled, else ""."""
    if mean_largest_probability > SETTLED_ABOVE:
        return ""
    return (
        f"The selectors have not settled: their mean largest probability is "
        f"{mean_largest_probability:.3f}, not above {SETTLED_ABOVE}, so another seed may select "
        "others; more steps or a larger model.selector_rate settle them."
    )


@dataclasses.dataclass(frozen=True)
class Settings(settings.CodeSize, settings.Reconstruction, settings.Activation):
    """Declares the keys of the concrete kind."""

    code_size: int = 50
    activation: str = "leaky_relu"
    output_activation: str = "linear"
    hidden_units: tuple[int, ...] = key((75,), "Units of the decoder's hidden layers.", at_least=1)
    first_temperature: float = key(
        10.0, "Temperature of the selectors' softmax at step 0.", above=0
    )
    last_temperature: float = key(
        0.01, "Temperature to which the softmax falls exponentially.", above=0
    )
    settled_share: float = key(
        0.1,
        "Share of the training, at its end, in which each selector takes one pixel.",
        at_least=0,
        below=1,
    )
    stop_when_settled: bool = key(
        False,
        "End at a validation where the mean largest probability of the selectors exceeds 0.998.",
    )
    selector_rate: float = key(
        10.0,
        "Factor of the selectors' learning rate with adam; with sgd, the factor is its square.",
        above=0,
    )
    images_per_draw: int = key(
        16, "Number of successive images that share a draw of the selectors' noise.", at_least=1
    )

    def check(self) -> None:
        super().check()
        require(
            self.last_temperature <= self.first_temperature,
            f"model.first_temperature={self.first_temperature} and model.last_temperature="
            f"{self.last_temperature} are not allowed; the temperature falls",
        )
