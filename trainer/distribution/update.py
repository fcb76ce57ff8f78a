"""Updates the weights by gradients that are summed over the replicas."""

import dataclasses
import math

import keras
import tensorflow as tf

from trainer.distribution import private_api
from trainer.distribution.averaging import WeightAverage
from trainer.distribution.gradients import Share, sum_of_terms
from trainer.distribution.optimizers import loss_scale, scales_losses
from trainer.distribution.xla import Execution, one_after_the_other, sum_of_squares_for_cpu
from trainer.models.learner import Learner

_MAX_SMALL_SIZE = 2**14  # numbers of a gradient that stays in a CPU's cache


@dataclasses.dataclass(frozen=True)
class Update:
    """Applies an optimizer to a replica's variables; returns the metrics of the step."""

    model: Learner
    optimizer: keras.optimizers.Optimizer
    execution: Execution
    norm_every_steps: int  # the last step has a gradient norm too; in other steps it is NaN
    last_step: int
    average: WeightAverage

    def __call__(self, total: Share, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Updates as Keras does, which brings the replicas together to count the iterations."""
        gradients, scale = total.gradients, loss_scale(self.optimizer)
        if self.execution.orders_gradients:
            gradients = one_after_the_other(gradients)
        # The squares of scaled gradients could overflow where the gradients do not.
        scaled = scales_losses(self.optimizer)
        norm = self._norm([g / scale for g in gradients] if scaled else gradients, step)
        applied = self.optimizer.check_finite(gradients) if scaled else tf.constant(True)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return self._finish(total, step, norm, scale, applied)

    def of_one_replica(self, total: Share, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Updates without the other replicas, as XLA compiles it; counts no iteration."""
        norm = self._norm(total.gradients, step)
        private_api.update_replica(self.optimizer, total.gradients, self.model.trainable_variables)
        return self._finish(total, step, norm, tf.ones(()), tf.constant(True))

    def _norm(self, gradients, step):
        if self.execution.on_gpus:
            return tf.linalg.global_norm(gradients)
        square = sum_of_squares_for_cpu if self.execution.update_by_xla else _sum_of_squares
        if self.norm_every_steps == 1:
            return tf.sqrt(tf.add_n([square(gradient) for gradient in gradients]))
        end = step + 1
        needed = (end % self.norm_every_steps == 0) | (end == self.last_step)
        # A branch for each large gradient, so that none is kept in memory until the last one is
        # there; for a small one the branch would cost more than the sum.
        squares = [
            square(g)
            if g.shape.num_elements() <= _MAX_SMALL_SIZE
            else tf.cond(needed, lambda g=g: square(g), lambda: math.nan)
            for g in gradients
        ]
        return tf.where(needed, tf.sqrt(tf.add_n(squares)), math.nan)

    def _finish(self, total, step, norm, scale, applied):
        """Averages the new weights and updates the state; returns the metrics of the step."""
        self.average.update(step, applied)
        for means in total.state:
            for variable, value in self.model.state_updates(means):
                # Each replica updates its own copy, since the variable has no aggregation.
                variable.assign(tf.where(applied, value, tf.convert_to_tensor(variable)))
        return {
            "loss": sum_of_terms(total.terms),
            **total.terms,
            "gradient_norm": norm,
            "skipped_steps": 1 - tf.cast(applied, tf.float32),
            "learning_rate": tf.convert_to_tensor(self.optimizer.learning_rate),
            "loss_scale": scale,
        }


def _sum_of_squares(gradient):
    return tf.reduce_sum(tf.square(gradient))
