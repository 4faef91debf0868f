"""`distill`: from a student and a teacher to a model that trains the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

import keras

from keras_compress.core.registry import entries, lookup, register, resolve
from keras_compress.distillation.heads import check_fit, keys_of, kinds_given
from keras_compress.distillation.loss import DistillationLoss
from keras_compress.distillation.losses.soft_targets import SoftTargets
from keras_compress.distillation.outputs import TeacherOutputs
from keras_compress.distillation.teacher import Source, Teacher, loaded
from keras_compress.graph.model import check_model
from keras_compress.graph.trace import as_graph
from keras_compress.graph.watch import Watch


def distill(
    student: keras.Model,
    teacher: Any,
    method: Any = "soft_targets",
    *,
    alpha: float = 0.7,
    temperature: float | None = None,
    hints: Sequence[Any] = (),
    weights: Sequence[float] | None = None,
    heads: Any = None,
) -> keras.Model:
    """A model that trains the student, in place, with labels and a teacher: `compile` and `fit` it.

    Args:
        student: Any built model: float, pruned, clustered, quantized; a graph or subclassed.
        teacher: A trained model, several (an ensemble, whose logits are averaged), the path of a `.keras` file, or
            `kc.teacher_outputs(...)`. It runs in inference and is not changed.
        method: Name of a loss out of the registry (`"soft_targets"`, `"logit_matching"`, `"fit_nets"`, ...), a loss,
            one of `keras.distillation`, or a list of these. `LogitsDistillation(T)`, which in Keras 3.12 to 3.15 takes
            the divergence of numbers that are no probabilities, is `kc.SoftTargets(T)` here.
        alpha: Share of the teacher's losses, in [0, 1]; that of the labels' loss is `1 - alpha`. With 1 no labels are
            needed: any samples do.
        temperature: Of losses of outputs given by name that have one, > 0; what they say by default. That of `CRD` is
            another: `kc.CRD(temperature=...)`.
        hints: Layers whose values are compared, for losses of features: a name or path that both models have, or
            `(teacher's, student's)`. Losses that need no hints compare the outputs where none are given.
        weights: Of the losses, each >= 0; 1 by default.
        heads: What the outputs are: `"softmax"` (classes one of which is right), `"sigmoid"` (labels), `"linear"`
            (numbers); one for all, or a list or dict of them. By default what activations and losses of student or
            teacher say; where nothing does, several scores are classes and one is a number.

    Returns:
        A `keras.distillation.Distiller`. Its `student` is the student that was given. `fit` weighs samples
        (`sample_weight`, `class_weight`) in the labels' loss and in soft targets, logit matching and decoupled
        distillation; losses of hints and of samples together leave them out, which with `alpha=1` is refused.

    Raises:
        ImportError: For Keras before 3.12.
        TypeError: For what is no model.
        ValueError: For outputs or hints that do not fit, layers that there are not, arguments out of range, or a
            teacher that is the student or shares weights with it.
    """
    _check_keras()
    from keras_compress.distillation.distiller import Distiller, Term

    check_model(student)
    _check_alpha(alpha)
    losses = _losses(method, temperature)
    pairs = _pairs(hints)
    own = [_names_of_its_own(loss) for loss in losses]
    pairs += [pair for pair in own if pair is not None]
    source = _source(student, teacher, [pair[0] for pair in pairs], heads)
    watch = Watch(student, [pair[1] for pair in pairs])
    graph = as_graph(student)
    kinds = kinds_given(heads, len(graph.outputs), keys_of(graph))
    shapes = _Shapes(source, graph, watch)
    terms, at = [], len(hints)
    for loss, weight, named in zip(losses, _weights(weights, len(losses)), own, strict=True):
        places = tuple(range(len(hints))) if _reads_features(loss) else ()
        if named is not None:
            places, at = (at,), at + 1
        layers = _layers(loss, shapes, places)
        terms.append(Term(loss, weight, places, tuple(layers)))
    if hints and not any(term.hints for term in terms):
        raise ValueError(f"Expected a method that reads hints, such as 'fit_nets'. Received: method={method!r}")
    return Distiller(student, source, terms, watch.names, float(alpha), kinds)


@register("teaching", "distill")
def taught(student: keras.Model, teacher: Any) -> keras.Model:
    """A distiller by what a training says of its teacher.

    Args:
        student: The model to be trained.
        teacher: `kc.Teacher`, or what `kc.distill` takes, with its defaults.
    """
    how = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    return distill(
        student,
        how.model,
        how.method,
        alpha=how.alpha,
        temperature=how.temperature,
        hints=how.hints,
        weights=how.weights,
        heads=how.heads,
    )


@register("teaching", "teacher")
def of_stage(teacher: Any, original: keras.Model, settings: Mapping[str, Any]) -> Teacher:
    """The teacher of a stage of a recipe.

    Args:
        teacher: What `compress` was given: `kc.Teacher`, a model or several, or `None`.
        original: The model that is compressed, which teaches where nobody else does.
        settings: What the stage says; a `kc.Teacher` has said it already.

    Raises:
        ImportError: For Keras before 3.12, before any stage is done.
    """
    _check_keras()
    if isinstance(teacher, Teacher):
        return teacher
    return Teacher(original if teacher is None else teacher, **settings)


@register("teaching", "settings")
def check_settings(settings: Mapping[str, Any]) -> None:
    """Check what a recipe says of a teacher, before anything is done.

    Raises:
        ValueError: For unknown keys, methods or values out of range.
    """
    known = {field.name for field in fields(Teacher)} - {"model"}
    if set(settings) - known:
        raise ValueError(f"Expected keys out of {sorted(known)}. Received: {sorted(set(settings) - known)}")
    how = Teacher(None, **settings)
    _check_alpha(how.alpha)
    _weights(how.weights, len(_losses(how.method, how.temperature)))
    _pairs(how.hints)


@register("teaching", "targets")
def targets(teacher: Any, y: Any) -> Any:
    """The targets to train with: beside the labels, what a teacher said before.

    Args:
        teacher: As for `taught`.
        y: Labels.

    Raises:
        ValueError: Where a teacher's outputs were kept and the labels are in a dataset.
    """
    model = teacher.model if isinstance(teacher, Teacher) else teacher
    if not isinstance(model, TeacherOutputs):
        return y
    if y is None:
        raise ValueError("Expected arrays x and y to train with outputs that were kept. Received: a dataset, or no y")
    return model.targets(y)


def _check_keras() -> None:
    if not hasattr(keras, "distillation"):
        raise ImportError(f"Expected Keras 3.12 or later, which has keras.distillation. Received: {keras.__version__}")


def _check_alpha(alpha: Any) -> None:
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0.0 <= alpha <= 1.0:
        raise ValueError(f"Expected `alpha` in [0, 1]. Received: alpha={alpha!r}")


def _losses(method: Any, temperature: float | None) -> list[Any]:
    methods = list(method) if isinstance(method, (list, tuple)) else [method]
    if not methods:
        raise ValueError("Expected at least one method. Received: none")
    made = [_loss(each, temperature) for each in methods]
    warm = [_softens(type(loss)) for name, loss in zip(methods, made, strict=True) if isinstance(name, str)]
    if temperature is not None and not any(warm):
        raise ValueError(
            "Expected a method by a name that has a temperature of outputs, such as 'soft_targets'. "
            f"Received: temperature={temperature}, method={method!r}"
        )
    return made


def _loss(method: Any, temperature: float | None) -> Any:
    if isinstance(method, str):
        cls = lookup("distillation", method)
        return cls(temperature=temperature) if temperature is not None and _softens(cls) else cls()
    found = resolve("distillation", method)
    theirs = getattr(keras, "distillation", None)
    if theirs and isinstance(found, theirs.LogitsDistillation) and _takes_logits_for_shares(found):
        return SoftTargets(found.temperature)
    if not isinstance(found, (DistillationLoss, *([theirs.DistillationLoss] if theirs else []))):
        raise TypeError(
            f"Expected `method` as a name out of {sorted(entries('distillation'))}, or a distillation loss. "
            f"Received: {method!r} of type {type(method).__name__}"
        )
    return found


def _softens(cls: Any) -> bool:
    """Whether a loss has a temperature of outputs: one of features divides something else."""
    return getattr(cls, "reads", "outputs") == "outputs" and "temperature" in cls().get_config()


def _takes_logits_for_shares(loss: Any) -> bool:
    """Whether it is Keras's with its default, a function: its divergence is then taken of logits, without T^2."""
    return getattr(loss.loss, "__name__", None) == "kl_divergence"


def _weights(given: Sequence[float] | None, count: int) -> list[float]:
    listed: list[Any] = [1.0] * count if given is None else list(given)
    if len(listed) != count or not all(isinstance(each, Real) and 0.0 <= float(each) < float("inf") for each in listed):
        raise ValueError(f"Expected {count} `weights` >= 0, one for each method. Received: weights={given}")
    return [float(each) for each in listed]


def _pairs(hints: Any) -> list[tuple[str, str]]:
    if isinstance(hints, str):
        raise ValueError(f"Expected `hints` as a list of names of layers, or of pairs. Received: hints={hints!r}")
    return [_pair(each) for each in hints]


def _pair(hint: Any) -> tuple[str, str]:
    """`(teacher's layer, student's layer)`."""
    if isinstance(hint, str):
        return hint, hint
    if isinstance(hint, (list, tuple)) and len(hint) == 2 and all(isinstance(each, str) for each in hint):
        return hint[0], hint[1]
    raise ValueError(
        f"Expected `hints` as names of layers, or pairs (teacher's, student's). Received: {hint!r} among them"
    )


def _names_of_its_own(loss: Any) -> tuple[str, str] | None:
    """The layers that a `keras.distillation.FeatureDistillation` names."""
    names = (getattr(loss, "teacher_layer_name", None), getattr(loss, "student_layer_name", None))
    if names == (None, None):
        return None
    if None in names:
        raise ValueError(f"Expected the names of both layers, or of none. Received: {names} in {type(loss).__name__}")
    return names  # type: ignore[return-value]


def _reads_features(loss: Any) -> bool:
    return getattr(loss, "reads", "outputs") == "features"


def _source(student: keras.Model, teacher: Any, hints: Sequence[str], heads: Any) -> Source | TeacherOutputs:
    if isinstance(teacher, Teacher):
        raise TypeError("Expected a model. Received: a kc.Teacher, which goes to kc.Training(teacher=...)")
    found = loaded(teacher)
    graph = as_graph(student)
    if isinstance(found, TeacherOutputs):
        if hints:
            raise ValueError("Expected a teacher that runs, for hints. Received: outputs that were kept")
        _check_kept(found, graph)
        return found
    mine = {id(variable) for variable in student.variables}
    for each in found:
        if each is student:
            raise ValueError(f"Expected a teacher that is not the student. Received: {each.name!r} for both")
        if any(id(variable) in mine for variable in each.variables):
            raise ValueError(
                "Expected a teacher with weights of its own: copy it with `keras.models.clone_model` and "
                f"`set_weights`. Received: {each.name!r}, which shares some with the student"
            )
    source = Source(found, hints, heads)
    for each in source.graphs:
        check_fit(each, graph)
    return source


def _check_kept(outputs: TeacherOutputs, graph: keras.Model) -> None:
    wanted = [tuple(tensor.shape[1:]) for tensor in graph.outputs]
    found = [tuple(array.shape[1:]) for array in outputs.logits]
    fits = len(wanted) == len(found) and all(
        len(a) == len(b) and all(n in (None, m) for n, m in zip(a, b, strict=True))
        for a, b in zip(wanted, found, strict=True)
    )
    if not fits:
        raise ValueError(f"Expected a teacher with outputs of the student's shapes {wanted}. Received: {found}")


class _Shapes:
    """Shapes of what is compared, found when they are asked for: it takes a trace of both models."""

    def __init__(self, source: Source | TeacherOutputs, graph: keras.Model, watch: Watch) -> None:
        self._source, self._graph, self._watch = source, graph, watch
        self._of_hints: tuple[list[Any], list[Any]] | None = None

    def of(self, places: Sequence[int]) -> tuple[list[Any], list[Any]]:
        """Of the teacher's and the student's values; without places, of the outputs."""
        if not places:
            shapes = [(None, *tensor.shape[1:]) for tensor in self._graph.outputs]
            return shapes, shapes
        if self._of_hints is None:
            self._of_hints = (self._source.shapes(), self._watch.shapes())  # type: ignore[union-attr]
        return [self._of_hints[0][n] for n in places], [self._of_hints[1][n] for n in places]


def _layers(loss: Any, shapes: _Shapes, places: Sequence[int]) -> list[keras.layers.Layer]:
    """The layers that a loss trains along, built."""
    if not isinstance(loss, DistillationLoss) or not _reads_features(loss):
        return []
    if loss.needs_hints and not places:
        raise ValueError(f"Expected `hints` for {type(loss).__name__}. Received: none")
    teacher, student = shapes.of(places)
    made = loss.make_layers(teacher, student)
    for layer, shape in zip(made, _inputs_of(made, teacher, student), strict=True):
        layer.build((None, *shape[1:]))
    return made


def _inputs_of(made: Sequence[Any], teacher: Sequence[Any], student: Sequence[Any]) -> list[Any]:
    """What each layer reads: one for each of the student's values, or one for each of both's."""
    if len(made) <= len(student):
        return list(student)[: len(made)]
    both = [shape for pair in zip(teacher, student, strict=True) for shape in pair]
    return [(None, _size(shape)) for shape in both]


def _size(shape: Sequence[Any]) -> int:
    size = 1
    for n in shape[1:]:
        size *= n
    return size
