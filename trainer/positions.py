"""Computes order and noise as pure functions of (seed, position).

A position p = 0, 1, 2, ... counts training examples over the whole run and over all replicas.
With N examples, position p is example `permutation(seed, p // N, N)[p % N]`, and owns one stretch
of a counter-based random stream. So the step number is the whole state of order and noise.
"""

import functools
import hashlib
import math

import numpy as np
import tensorflow as tf

_PHILOX = 1  # the `alg` of TensorFlow's stateless random operations
_INTEGERS_PER_TICK = 4  # of 32 bits, at each tick of the Philox counter
_FLOAT_BITS = 24  # the precision of a float32
_SMALLEST_UNIFORM = 2.0**-25  # replaces 0, whose logarithm is infinite


def _key(*parts: object) -> int:
    """Hashes the parts of a key to 64 bits, the same in every process and on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns a random order of the integers below `size`, int64 [size].

    Sorts raw Philox output, which NumPy promises never to change, unlike `Generator.permutation`.
    """
    raw = np.random.Philox(key=_key(seed, "order", epoch)).random_raw(size)
    order = np.argsort(raw, kind="stable")
    order.flags.writeable = False  # the cache hands the same array to every caller
    return order


def examples(seed: int, first: int, count: int, size: int) -> np.ndarray:
    """Returns which of `size` examples are at `count` positions from `first` on, int64 [count]."""
    positions = np.arange(first, first + count)
    epochs = positions // size
    indices = np.empty(count, np.int64)
    for epoch in np.unique(epochs):
        mask = epochs == epoch
        indices[mask] = permutation(seed, int(epoch), size)[positions[mask] % size]
    return indices


class Noise:
    """Draws the noise of `count` consecutive positions, the same on any machine at any time.

    Each `purpose`, a name such as "corruption", and each `stream` have independent numbers. An
    evaluation has its own stream, since its positions count the examples of a split from 0.

    Do not index or slice the numbers with a tensor: XLA on a CPU is then up to a thousand times
    slower. To select a row, multiply by `tf.one_hot`.
    """

    def __init__(
        self,
        seed: int,
        first_position: int | tf.Tensor,
        count: int,
        stream: str = "training",
    ):
        self._seed = seed
        self._stream = stream
        self._first_position = first_position
        self._count = count

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> tf.Tensor:
        """Draws uniform numbers in [0, 1), multiples of 2**-24, float32 [count, *shape]."""
        return self._shaped(self._unit(purpose, math.prod(shape)), shape)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> tf.Tensor:
        """Draws standard normal numbers, float32 [count, *shape] (Box & Muller 1958)."""
        first, second = tf.split(self._unit(purpose, math.prod(shape)), 2, axis=1)
        radius = tf.sqrt(-2 * tf.math.log1p(-first))
        angle = 2 * math.pi * second
        pairs = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)
        return self._shaped(pairs, shape)

    def gumbel(self, purpose: str, shape: tuple[int, ...]) -> tf.Tensor:
        """Draws finite standard Gumbel numbers, -log(-log u), float32 [count, *shape]."""
        uniform = tf.maximum(self.uniform(purpose, shape), _SMALLEST_UNIFORM)
        return -tf.math.log(-tf.math.log(uniform))

    def of(self, row: int | tf.Tensor) -> "Noise":
        """Returns the noise of one position, `row` positions after the first."""
        position = tf.cast(self._first_position, tf.int64) + tf.cast(row, tf.int64)
        return Noise(self._seed, position, 1, self._stream)

    def shared(self, size: int) -> tuple["Noise", tf.Tensor]:
        """Returns noise that groups of positions share, and each position's row, int64 [count].

        Group g has the positions g * size to (g + 1) * size - 1. The noise has a row for each
        group that `count` positions can touch, whatever the first position is.
        """
        first = tf.cast(self._first_position, tf.int64)
        count = (self._count + size - 2) // size + 1
        positions = first + tf.range(tf.cast(self._count, tf.int64))
        groups = Noise(self._seed, first // size, count, self._stream)
        return groups, positions // size - first // size

    def section(self, name: str) -> "Noise":
        """Returns noise of the same positions, with other numbers for every purpose."""
        return Noise(self._seed, self._first_position, self._count, f"{self._stream}/{name}")

    def _unit(self, purpose: str, elements: int) -> tf.Tensor:
        """Draws uniform numbers [count, elements rounded up to a multiple of 4].

        Converts integers, since TensorFlow's own uniform and normal numbers have other bits under
        XLA. A row holds the first integer of all its ticks, then the second of all, and so on: XLA
        vectorises such planes, but would compute ticks one by one.
        """
        ticks = -(-elements // _INTEGERS_PER_TICK)
        first_tick = tf.cast(self._first_position, tf.int64) * ticks
        integers = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[self._count * ticks, _INTEGERS_PER_TICK],
            key=tf.constant([_key(self._seed, self._stream, purpose)], tf.uint64),
            counter=tf.cast(tf.stack([first_tick, 0]), tf.uint64),
            alg=_PHILOX,
            dtype=tf.uint32,
        )
        planes = [_to_unit_interval(integers[:, i]) for i in range(_INTEGERS_PER_TICK)]
        return tf.concat([tf.reshape(plane, [self._count, ticks]) for plane in planes], axis=1)

    def _shaped(self, rows: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        return tf.reshape(rows[:, : math.prod(shape)], [self._count, *shape])


def _to_unit_interval(integers: tf.Tensor) -> tf.Tensor:
    """Converts integers of 32 random bits to float32 in [0, 1)."""
    bits = tf.bitwise.right_shift(integers, tf.constant(32 - _FLOAT_BITS, tf.uint32))
    return tf.cast(bits, tf.float32) * 2.0**-_FLOAT_BITS
