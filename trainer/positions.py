"""Order and noise as pure functions of (seed, position).

A position p = 0, 1, 2, ... counts training examples over the whole run and over all replicas.
With N examples, position p is example `permutation(seed, p // N, N)[p % N]`, and has a stretch of
a counter-based random stream to itself. So the step number is the whole state of order and noise.
"""

import functools
import hashlib
import math
from typing import Literal

import numpy as np
import tensorflow as tf

_PHILOX = 1  # the `alg` of TensorFlow's stateless random operations
_INTEGERS_PER_TICK = 4  # of 32 bits, at each tick of the Philox counter
_FLOAT_BITS = 24  # of precision that a float32 has


def _key(*parts: object) -> int:
    """Hashes parts to 64 bits, which are the same in every process and on every machine."""
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
    """Returns the examples, of `size`, at positions first to first + count - 1, int64 [count]."""
    positions = np.arange(first, first + count)
    epochs = positions // size
    drawn = np.empty(count, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        drawn[here] = permutation(seed, int(epoch), size)[positions[here] % size]
    return drawn


class Noise:
    """The noise of `count` consecutive positions, the same wherever and whenever it is drawn.

    Each `purpose`, a name such as "corruption", has a random stream to itself. So has each
    `stream`: the positions of an evaluation count the examples of a split from 0, and their noise
    is not that of training.
    """

    def __init__(
        self,
        seed: int,
        first_position: int | tf.Tensor,
        count: int,
        stream: Literal["training", "evaluation"] = "training",
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

    def of(self, row: int | tf.Tensor) -> "Noise":
        """Returns the noise of one position, counted from the first."""
        position = tf.cast(self._first_position, tf.int64) + tf.cast(row, tf.int64)
        return Noise(self._seed, position, 1, self._stream)

    def shared(self, size: int) -> tuple["Noise", tf.Tensor]:
        """Returns noise that `size` positions share, and which row of it each has, int64 [count].

        Group g is the positions g * size to (g + 1) * size - 1. The noise has a row for each group
        that `count` positions can touch, wherever the first one lies.
        """
        first = tf.cast(self._first_position, tf.int64)
        count = (self._count + size - 2) // size + 1
        positions = first + tf.range(tf.cast(self._count, tf.int64))
        groups = Noise(self._seed, first // size, count, self._stream)
        return groups, positions // size - first // size

    def _unit(self, purpose: str, elements: int) -> tf.Tensor:
        """Draws uniform numbers [count, elements rounded up to a multiple of 4].

        By way of integers: TensorFlow's own uniform and normal numbers have other bits under XLA.
        A row holds the first integer of each of its ticks, then the second of each, and so on: XLA
        computes such planes several numbers at a time, but ticks one by one.
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
        planes = [_unit(integers[:, i]) for i in range(_INTEGERS_PER_TICK)]
        return tf.concat([tf.reshape(plane, [self._count, ticks]) for plane in planes], axis=1)

    def _shaped(self, rows: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
        return tf.reshape(rows[:, : math.prod(shape)], [self._count, *shape])


def _unit(integers: tf.Tensor) -> tf.Tensor:
    """Converts integers of 32 random bits to float32 in [0, 1)."""
    bits = tf.bitwise.right_shift(integers, tf.constant(32 - _FLOAT_BITS, tf.uint32))
    return tf.cast(bits, tf.float32) * 2.0**-_FLOAT_BITS
