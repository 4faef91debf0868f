"""The ways to make weights zero that `sparsity.py` compares: found in the registry, each given the same steps in all.

Three kinds: from a network trained for a part of the steps; from scratch; in rounds.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras

import keras_compress as kc
from keras_compress.core.registry import entries
from keras_compress.graph.model import candidates, slots_in
from keras_compress.pruning.distribution import layer_sparsities

if TYPE_CHECKING:
    from sparsity import Run

# Share of the steps of a training in which a schedule makes zeros; the others train what is left.
UNTIL = 0.6
# How often it acts until then.
TIMES = 25
ROUNDS = 3
# Share of an epoch that a ticket is rewound to.
REWOUND = 0.2
Make = Callable[["Run", float], keras.Model]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: Its name.
        group: Under which heading it stands.
        make: `(run, sparsity) -> trained model`.
        all_seeds: Whether a goal is about it: it is trained with all seeds, others with the first.
        figures: What else the row says of the model.
    """

    name: str
    group: str
    make: Make
    all_seeds: bool = False
    figures: Callable[[keras.Model], dict[str, Any]] = field(default=lambda model: {})


@dataclass(frozen=True)
class Tuned:
    """A pruner without a target: its strength is found by bisection.

    Attributes:
        argument: That is searched, on a logarithmic scale.
        low: Strength that leaves most weights.
        high: Strength that leaves hardly any.
        others: Its other arguments.
        trained: Whether it begins with a network that is trained for a part of the steps.
    """

    argument: str
    low: float
    high: float
    others: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = False


def gradual(run: Run, sparsity: float, epochs: float, begin: float = 0.0, kind: Any = None) -> Any:
    """A schedule that rises from 0 until `UNTIL` of a training."""
    steps = run.steps(epochs)
    kind = kc.PolynomialDecay if kind is None else kind
    every = max(1, round(UNTIL * steps / TIMES))
    first = round(begin * steps)
    end = first + math.floor((UNTIL * steps - first) / every) * every
    return kind(0.0, sparsity, begin_step=first, end_step=end, frequency=every)


def at_once(run: Run, sparsity: float, epochs: float) -> Any:
    """All zeros before the first step."""
    return kc.ConstantSparsity(sparsity, begin_step=0, frequency=10**6)


def by_magnitude(schedule: Callable[..., Any], **options: Any) -> Make:
    """From the trained network: wrap, and train for the rest of the steps."""

    def make(run: Run, sparsity: float) -> keras.Model:
        wrapped = kc.prune_low_magnitude(run.begun(), schedule(run, sparsity, run.rest), **options)
        return run.trained(wrapped, run.rest)

    return make


def in_rounds(scope: str) -> Make:
    """Prune and retrain in turns: the rest of the steps in `ROUNDS` parts."""

    def make(run: Run, sparsity: float) -> keras.Model:
        fit = run.fitting(run.rest / ROUNDS)
        how = {"sparsity": sparsity, "rounds": ROUNDS, "scope": scope, "validation_data": run.validation}
        return kc.prune_iteratively(run.begun(), fit, seed=run.seed, **how).model

    return make


def ticket(run: Run, sparsity: float, **options: Any) -> kc.Ticket:
    """A search whose trainings take the steps of one whole training together."""
    epochs = run.epochs / (ROUNDS + 1)
    early = min(round(REWOUND * run.steps_per_epoch), run.steps(epochs) // 4)
    return kc.find_ticket(
        run.build,
        run.fitting(epochs),
        sparsity,
        rounds=ROUNDS,
        validation_data=run.validation,
        seed=run.seed,
        folder=run.folder / "searches" / f"{options.get('rewind', 'weights')}_{sparsity:g}_{run.seed}",
        **{"rewind_to": early, **options},
    )


def _ticket(**options: Any) -> Make:
    return lambda run, sparsity: ticket(run, sparsity, **options).model


def control(run: Run, sparsity: float) -> keras.Model:
    """The ticket's masks over other initial weights, trained as long as the ticket."""
    found = ticket(run, sparsity)
    other = kc.prune(run.network(run.seed + 1000), kc.FixedMaskPruner())
    for pruner, mask in zip(run.masks(other), run.masks(found.start), strict=True):
        pruner.mask.assign(mask.mask)
    return run.trained(other, run.epochs / (ROUNDS + 1))


def one_shot(criterion: str, trained: bool) -> Make:
    """Masks by a criterion, at the beginning or behind the first part."""

    def make(run: Run, sparsity: float) -> keras.Model:
        model = run.begun() if trained else run.network()
        data = run.x[:1024], run.y[:1024]
        scope = "layer" if criterion in BY_LAYER else "global"
        pruned = kc.prune_one_shot(model, sparsity, criterion=criterion, data=data, loss=run.loss, scope=scope)
        return run.trained(pruned, run.rest if trained else run.epochs)

    return make


def erk_shares(model: keras.Model, sparsity: float) -> dict[str, float]:
    """Path of each layer -> its share of zeros, more in larger ones, for a share of all together."""
    shapes = {path: tuple(slots_in(layer)[0].variable(layer).shape) for path, layer in candidates(model)}
    return dict(zip(shapes, layer_sparsities(list(shapes.values()), sparsity, "erk"), strict=True))


def with_target(cls: type, schedule: Callable[[Run, float, float], Any], trained: bool) -> Make:
    """A pruner that is told the sparsity of each weight: by ERK, as equal shares cost the small layers too much."""

    def make(run: Run, sparsity: float) -> keras.Model:
        model, epochs = (run.begun(), run.rest) if trained else (run.network(), run.epochs)
        rules = [
            {"layers": path, "pruner": cls(schedule(run, share, epochs))}
            for path, share in erk_shares(model, sparsity).items()
        ]
        return run.trained(kc.prune(model, rules[0]["pruner"], rules=rules), epochs)

    return make


def exchanging(method: str, times: int = 1) -> Make:
    """Sparse from the first step on, and masks that change while it trains; so many times as long as other rows."""

    def make(run: Run, sparsity: float) -> keras.Model:
        epochs = times * run.epochs
        steps = run.steps(epochs)
        every = max(1, min(EXCHANGES, steps // 10))
        schedule = kc.ConstantSparsity(sparsity, begin_step=0, end_step=round(0.75 * steps), frequency=every)
        return run.trained(kc.train_sparse(run.network(), schedule, method=method, seed=run.seed), epochs)

    return make


def alternating(run: Run, sparsity: float, epochs: float) -> Any:
    """The schedule of AC/DC: a dense tenth, phases in turns, and a longer sparse end."""
    steps = run.steps(epochs)
    phase = max(1, steps // 10)
    return kc.AlternatingSparsity(sparsity, begin_step=phase, end_step=7 * phase, frequency=phase)


def tuned(cls: type, how: Tuned) -> Make:
    """The strength of the first seed whose sparsity is nearest; others take it."""

    def try_(run: Run, strength: float) -> keras.Model:
        arguments = {key: each(run) if callable(each) else each for key, each in how.others.items()}
        pruner = cls(**{how.argument: strength, **arguments})
        wrapped = kc.prune(run.begun() if how.trained else run.network(), pruner)
        return run.trained(wrapped, run.rest if how.trained else run.epochs)

    def make(run: Run, sparsity: float) -> keras.Model:
        return try_(run, run.strength(cls.__name__, how.low, how.high, sparsity, try_))

    return make


# What is no way to reach a sparsity of single weights, or stands in the table as something else.
LEFT_OUT = {
    "ColumnCombining": "of columns",
    "KernelPatternPruner": "of patterns in a kernel",
    "NMPruner": "of m in n weights",
    "FixedMaskPruner": "keeps what others made",
    "MagnitudePruner": "rows of its own",
    "RigLPruner": "rows of its own",
    "SetPruner": "rows of its own",
    "AcDcPruner": "rows of its own",
}
# Those that a sparsity cannot be told to.
TUNED: dict[str, Tuned] = {
    "L0Pruner": Tuned("strength", 1e-8, 1e-3, {"initial_drop_rate": 0.8, "seed": lambda run: run.seed}),
    "VariationalDropoutPruner": Tuned("strength", 1e-7, 1e-2, {"initial_log_sigma2": -5.0}, trained=True),
    "StrPruner": Tuned("weight_decay", 1e-5, 1e2, {"initial_s": -4.0}, trained=True),
    "ThresholdPruner": Tuned("quality", 0.1, 8.0, {"schedule": lambda run: gradual(run, 0.5, run.rest)}, trained=True),
    "ContinuousSparsificationPruner": Tuned(
        "strength", 1e-9, 1e-3, {"initial_s": 0.02, "end_step": lambda run: round(0.8 * run.steps(run.epochs))}
    ),
}
# Criteria that say something of weights that are not trained yet.
AT_BEGIN = ("MagnitudeSaliency", "RandomSaliency", "SNIP", "GraSP", "SynFlow")
# Those that cannot rank all weights together: they compare those of one layer, or of one output.
BY_LAYER = ("SparseGPT", "Wanda")
EXCHANGES = 50
LONGER = 5


def magnitude_methods() -> list[Method]:
    """Schedules and scopes of `MagnitudePruner`, and rounds."""
    group = "by magnitude"
    found = [
        Method(f"{name}, {scope}", group, by_magnitude(schedule, scope=scope), name == "gradual" and scope == "global")
        for name, schedule in (("gradual", gradual), ("one-shot", at_once))
        for scope in ("layer", "global")
    ]
    found += [
        Method(f"iterative, {scope}", group, in_rounds(scope), scope == "global") for scope in ("layer", "global")
    ]
    cosine = by_magnitude(lambda run, s, epochs: gradual(run, s, epochs, kind=kc.CosineDecay))
    found.append(Method("gradual by a cosine, layer", group, cosine))
    found.append(Method("gradual, layer, may regrow", group, by_magnitude(gradual, regrow=True)))

    def scratch(run: Run, sparsity: float) -> keras.Model:
        schedule = gradual(run, sparsity, run.epochs, begin=0.2)
        return run.trained(kc.prune_low_magnitude(run.network(), schedule, scope="global"), run.epochs)

    return [*found, Method("gradual from scratch, global", group, scratch)]


def ticket_methods() -> list[Method]:
    """Tickets, their control, and learning-rate rewinding, in the steps of one training."""
    group = "tickets"
    return [
        Method("ticket", group, _ticket(), True),
        Method("its masks, other initial weights", group, control, True),
        Method("learning-rate rewinding", group, _ticket(rewind="learning_rate", rewind_to=0)),
    ]


def one_shot_methods() -> list[Method]:
    """All criteria behind the first part, and those that need no training at the beginning."""
    found = []
    for name in sorted(entries("weight_criterion")):
        if name != "MagnitudeSaliency":  # what "one-shot, global" is
            found.append(Method(f"{name}, trained", "at once, then trained on", one_shot(name, True)))
        if name in AT_BEGIN:
            found.append(Method(f"{name}, at the beginning", "at once, at the beginning", one_shot(name, False)))
    return found


def training_methods() -> list[Method]:
    """Pruners that work while a network trains: those with rows of their own, then all others of the registry."""
    group = "while it trains"
    found = [
        Method("RigLPruner", "sparse from the start", exchanging("rigl"), True),
        # The paper trains it longer too: a step of a sparse network would cost a tenth, on hardware that skips zeros.
        Method(f"RigLPruner, {LONGER} times the steps", "sparse from the start", exchanging("rigl", LONGER)),
        Method("SetPruner", "sparse from the start", exchanging("set")),
        Method("AcDcPruner", group, with_target(kc.AcDcPruner, alternating, trained=False)),
    ]
    for name, cls in sorted(entries("weight_transform").items()):
        if name in LEFT_OUT or not cls.__module__.startswith("keras_compress.pruning."):
            continue
        if name in TUNED:
            found.append(Method(name, group, tuned(cls, TUNED[name])))
        elif "schedule" in inspect.signature(cls).parameters and getattr(cls, "has_target", True):
            make = with_target(cls, gradual, trained=True)
            found.append(Method(name, group, make, name == "RegularizedPruner"))
        else:
            raise LookupError(f"Expected a pruner with a row: in TUNED, or in LEFT_OUT. Received: {name}")
    return found


def methods() -> list[Method]:
    """All rows, by group."""
    dense = Method("dense", "", lambda run, sparsity: run.trained(run.network(), run.epochs), True)
    return [dense, *magnitude_methods(), *ticket_methods(), *one_shot_methods(), *training_methods()]
