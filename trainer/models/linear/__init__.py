"""One linear map down, one up: PCA, learnt by gradient descent.

x̂ = U (V x + b) + c, trained on the squared error, which has no local minimum but the global one.
There the columns of U span the principal subspace (Baldi & Hornik 1989); they need not be the
components themselves (Plaut 2018).
"""

import dataclasses

from trainer.models import settings

TINY = {"code_size": 3}


@dataclasses.dataclass(frozen=True)
class Settings(settings.CodeSize):
    """The keys of the linear kind."""
