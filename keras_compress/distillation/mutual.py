"""Deep mutual learning: students that teach each other, without a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_compress.core import keras_private
from keras_compress.data.training import Fitting
from keras_compress.distillation.heads import agreed, heads_of, keys_of
from keras_compress.distillation.loss import total, weighted_mean
from keras_compress.distillation.losses.soft_targets import SoftTargets
from keras_compress.graph.model import check_model
from keras_compress.graph.trace import as_graph

Tensor = Any


def mutual_learning(models: Sequence[keras.Model], fitting: Fitting, *, temperature: float = 1.0) -> list[keras.Model]:
    """Train models together, in place, each by the labels and by what the others say.

    **Loss** `sum_i (task_i + 1/(K-1) sum_(j != i) T^2 KL(p_j || p_i))`; no gradient goes through p_j. Weights of
    samples and Keras's masks count in both terms.

    Args:
        models: Two or more, of one output each, of equal shape.
        fitting: `kc.Training(...).on(x, y)`; metrics are not taken.
        temperature: T, > 0.

    Returns:
        The models.

    Raises:
        ValueError: For fewer than two models, outputs that do not fit, or a temperature out of range.

    **Reference**: Zhang et al., "Deep mutual learning" (2018), equations 4 to 8. **Deviations**: all models take their
    steps at once, not one after the other.
    """
    learners = Learners(models, temperature)
    fitting(learners)
    return list(models)


class Learners(keras.Model):
    """Models as one, which gives all their outputs.

    Args:
        models: Two or more.
        temperature: See `mutual_learning`.
    """

    def __init__(self, models: Sequence[keras.Model], temperature: float) -> None:
        super().__init__(name="mutual_learning")
        for model in models:
            check_model(model)
        if len({id(model) for model in models}) < 2:
            raise ValueError(f"Expected at least two models to learn from each other. Received: {len(models)}")
        graphs = [as_graph(model) for model in models]
        shapes = [[tuple(tensor.shape[1:]) for tensor in graph.outputs] for graph in graphs]
        if any(len(each) != 1 or each != shapes[0] for each in shapes):
            raise ValueError(f"Expected models of one output each, of equal shape. Received: {shapes}")
        self.models = list(models)
        self._graphs = [graphs]
        self._soft = SoftTargets(temperature)
        self.built = True

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """As of one of the models; metrics are not taken."""
        super().compile(optimizer=optimizer, **kwargs)
        self.task = keras.losses.get(loss)
        heads = [heads_of(graph, [None], loss)[0] for graph in self._graphs[0]]
        self._heads = agreed(heads, keys_of(self._graphs[0][0])[0])

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return [model(inputs, training=training) for model in self.models]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The sum over the models; see `mutual_learning`."""
        logits = [head.logits(outputs) for head, outputs in zip(self._heads, y_pred, strict=True)]
        masks = list(map(keras_private.mask_of, y_pred))
        count, kind = len(logits), self._heads[0].kind
        peers = total(
            weighted_mean(self._soft.of_head(ops.stop_gradient(logits[j]), logits[i], kind), sample_weight, masks[i])
            for i in range(count)
            for j in range(count)
            if i != j
        )
        tasks = total(ops.cast(self._of_labels(y, each, sample_weight), "float32") for each in y_pred)
        others = total([ops.zeros(()), *(ops.cast(each, "float32") for each in self.losses)])
        return (tasks + peers / float(count - 1) + others) / self.distribute_strategy.num_replicas_in_sync

    def _of_labels(self, labels: Any, outputs: Any, sample_weight: Any) -> Tensor:
        if isinstance(self.task, keras.losses.Loss):
            # Scaled for the replicas by itself.
            return self.task(labels, outputs, sample_weight) * self.distribute_strategy.num_replicas_in_sync
        # A function knows neither weights nor masks.
        return weighted_mean(self.task(labels, outputs), sample_weight, keras_private.mask_of(outputs))
