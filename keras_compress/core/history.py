"""What methods did to a model, kept beside it until it is saved; `summary`, reports and commands tell it."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import keras


class Record(ABC):
    """What one family of methods did to a model. A family has one class of records, and a model one of each class."""

    @abstractmethod
    def lines(self) -> Sequence[str]:
        """What `summary` says of it: a line each, without a full stop."""


_Kind = TypeVar("_Kind", bound=Record)
_RECORDS: weakref.WeakKeyDictionary[keras.Model, dict[type[Record], Record]] = weakref.WeakKeyDictionary()


def keep(model: keras.Model, record: Record) -> keras.Model:
    """Keep a record with a model, in place of one of the same class, and return the model."""
    _RECORDS.setdefault(model, {})[type(record)] = record
    return model


def kept(model: keras.Model, kind: type[_Kind]) -> _Kind | None:
    """A model's record of a class; `None` where there is none, or the model was copied or loaded since."""
    record = _RECORDS.get(model, {}).get(kind)
    return record if isinstance(record, kind) else None


def history_of(model: keras.Model) -> tuple[str, ...]:
    """The lines of all that is kept with a model, in the order of what came first."""
    return tuple(line for record in _RECORDS.get(model, {}).values() for line in record.lines())
