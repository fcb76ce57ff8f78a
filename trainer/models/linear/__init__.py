"""A linear encoder and a linear decoder: PCA, learnt by gradient descent.

x̂ = U (V x + b) + c is trained on the squared error, whose only local minimum is the global one. At
the minimum, the columns of U span the principal subspace (Baldi & Hornik 1989), but need not be
the principal components (Plaut 2018).
"""

import dataclasses

from trainer.models import settings

TINY = {"code_size": 3}


@dataclasses.dataclass(frozen=True)
class Settings(settings.CodeSize):
    """Declares the keys of the linear kind."""
