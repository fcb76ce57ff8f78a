"""Computes the PCA of the training examples, from which initial weights follow."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from trainer.data.dataset import Records, evenly_spaced, to_unit
from trainer.data.memory import BLOCK_ROWS

_MAX_EXACT = 4096  # values of an example; such a covariance is decomposed in seconds
_MAX_SAMPLED = 2**14  # values of an example; larger images are averaged over squares first
_MAX_SAMPLE_BYTES = 2**29
_RANK_TOLERANCE = 1e-10  # share of the largest variance; a smaller one is a rounding error


@dataclasses.dataclass(frozen=True)
class Pca:
    """Holds K principal components of examples of D values, by falling variance.

    Components beyond the number of examples or of values are 0, with variance 0; if examples have
    more than 4,096 values, also those with at most 1e-10 of the largest variance.
    """

    mean: np.ndarray  # float64 [D]
    encoder_map: np.ndarray  # float64 [D, K]: scores = (x - mean) @ encoder_map
    decoder_map: np.ndarray  # float64 [K, D]: x̂ = mean + scores @ decoder_map
    variances: np.ndarray  # float64 [K], of the scores


class TrainingStatistics:
    """Computes statistics of the training examples when they are asked for."""

    def __init__(self, examples: np.ndarray | Records):
        """Takes images [N, H, W, C], uint8 or float32 in [0, 1], or vectors [N, D]."""
        self._examples = examples

    def mean(self) -> np.ndarray:
        """Returns the mean example, float64 [D], reading the examples a block at a time."""
        return _mean(self._examples, np.arange(len(self._examples)))

    def pca(self, components: int) -> Pca:
        """Fits PCA, reading the examples a block at a time; the same examples give the same PCA.

        Examples of up to 4,096 values get the exact PCA of all of them. Others get a randomised PCA
        of 512 MiB of evenly spaced examples, in which images of more than 16,384 values are
        averaged over squares of pixels; `decoder_map` is then the regression of whole images on
        the scores.
        """
        values = math.prod(self._examples.shape[1:])
        count = min(components, values, len(self._examples))
        fit = _exact_pca if values <= _MAX_EXACT else _sampled_pca
        mean, encoder_map, decoder_map, variances = fit(self._examples, count)
        missing = components - count
        return Pca(
            mean,
            np.pad(encoder_map, ((0, 0), (0, missing))),
            np.pad(decoder_map, ((0, missing), (0, 0))),
            np.pad(variances, (0, missing)),
        )


def _exact_pca(examples: np.ndarray | Records, count: int) -> tuple[np.ndarray, ...]:
    from scipy.linalg import eigh

    every = np.arange(len(examples))
    mean = _mean(examples, every)
    covariance = np.zeros((len(mean), len(mean)))
    for rows in _blocks(examples, every):
        centred = rows - mean
        covariance += centred.T @ centred
    covariance /= len(examples)
    last = len(mean) - 1
    variances, components = eigh(covariance, subset_by_index=(last - count + 1, last))
    components = components[:, ::-1]
    return mean, components, components.T, np.maximum(variances[::-1], 0)


def _sampled_pca(examples: np.ndarray | Records, count: int) -> tuple[np.ndarray, ...]:
    from sklearn.decomposition import PCA

    averaging = _averaging(examples.shape[1:])
    most = max(_MAX_SAMPLE_BYTES // (4 * averaging.shape[1]), count)
    chosen = evenly_spaced(len(examples), min(len(examples), most))
    blocks = [rows @ averaging for rows in _blocks(examples, chosen)]
    fitted = PCA(count, svd_solver="randomized", random_state=0).fit(np.concatenate(blocks))
    mean = _mean(examples, chosen)
    encoder_map = averaging @ fitted.components_.T.astype(np.float64)
    products, squares = np.zeros(encoder_map.T.shape), np.zeros(count)
    for rows in _blocks(examples, chosen):
        centred = rows - mean
        scores = centred @ encoder_map
        products += scores.T @ centred
        squares += np.square(scores).sum(axis=0)
    # Scores beyond the rank are rounding errors; dividing by their squares gives huge weights.
    squares[squares <= _RANK_TOLERANCE * squares.max()] = 0
    encoder_map *= squares > 0
    decoder_map = products / np.where(squares > 0, squares, np.inf)[:, np.newaxis]
    norms = np.linalg.norm(decoder_map, axis=1)  # not 1 where images were averaged
    norms[norms == 0] = 1
    variances = squares / len(chosen) * norms**2
    return mean, encoder_map * norms, decoder_map / norms[:, np.newaxis], variances


def _averaging(shape: tuple[int, ...]):
    """Returns the sparse matrix [D, d] that averages images over squares, so that d is allowed."""
    from scipy.sparse import csr_array, identity

    values = math.prod(shape)
    if len(shape) == 1 or values <= _MAX_SAMPLED:
        return identity(values, np.float32, format="csr")
    _, columns, channels = shape
    side = math.ceil(math.sqrt(values / _MAX_SAMPLED))
    y, x, channel = np.indices(shape).reshape(3, -1)
    across = -(-columns // side)
    square = ((y // side) * across + x // side) * channels + channel
    weights = (1 / np.bincount(square)[square]).astype(np.float32)
    return csr_array((weights, (np.arange(values), square)))


def _mean(examples: np.ndarray | Records, chosen: np.ndarray) -> np.ndarray:
    total = np.zeros(math.prod(examples.shape[1:]))
    for rows in _blocks(examples, chosen):
        total += rows.sum(axis=0, dtype=np.float64)
    return total / len(chosen)


def _blocks(examples: np.ndarray | Records, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yields chosen examples as rows, float32 [n, D], with pixels in [0, 1]."""
    for start in range(0, len(chosen), BLOCK_ROWS):
        block = to_unit(examples[chosen[start : start + BLOCK_ROWS]])
        yield block.reshape(len(block), -1)
