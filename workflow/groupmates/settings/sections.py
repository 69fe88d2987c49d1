"""What the typed settings are built of: sections of `config.yaml`, and what a stage takes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
FilledText = Annotated[str, Field(min_length=1)]
BadRecords = Literal["stop", "skip"]
Pooling = Literal[
    "first", "mean"
]  # an encoder's vector of a text: of its first token, or their mean


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        defer_build=True,
    )


def either(one: str, other: str, *, or_none: bool = False) -> Any:
    """A validator: one of two keys is set and the other null; `or_none`: both may be null."""

    def check(section: Section) -> Section:
        given = [getattr(section, key) is not None for key in (one, other)]
        if all(given):
            raise ValueError(
                f"{one} and {other} are both set; set one to null (a value in config.yaml counts)"
            )
        if not any(given) and not or_none:
            raise ValueError(f"{one} and {other} are both null; set one of them")
        return section

    return model_validator(mode="after")(check)


class PoolColumns(Section):
    """Names of the fields of a record. `content.text` is the field `text` inside the field
    `content`."""

    text: FilledText
    """Field of the text."""
    id: FilledText | None
    """Field of the document's id. `null`: file name and row number make the id. An id may occur
    once in the pool."""
    source: FilledText | None
    """Field of the document's kind, which the report shows. `null`: there is none."""


class Budget(Section):
    """How much is selected."""

    ratio: Share | None
    """Share of the pool's documents (paper: 0.5). Set this key or `tokens`, and the other one to
    `null`."""
    tokens: Positive | None
    """Number of tokens of the selected documents, met to within one document."""

    one_of_two = either("ratio", "tokens")


class StepRate(Section):
    """The learning rate of a probing step."""

    factor: Annotated[float, Field(gt=0)] | None
    """Share of the checkpoint's learning rate. Set this key or `absolute`, and the other one to `null`.

    A step trains on one document. At the rate of a batch of hundreds it does damage, whatever the
    document says, and the influence is drowned in that.
    """
    absolute: Annotated[float, Field(gt=0)] | None
    """The learning rate itself."""

    one_of_two = either("factor", "absolute")

    def of(self, checkpoint: float) -> float:
        """The rate of a step, where the checkpoint was trained with that of `checkpoint`."""
        return self.absolute if self.factor is None else self.factor * checkpoint  # type: ignore[return-value]


# What a stage takes of the configuration.


@dataclass(frozen=True)
class From:
    """Where a field of a stage's settings comes from: a dotted key, or a function of all settings."""

    place: str | Callable[[Any], Any]


class StageSettings(Section):
    """What one stage depends on beside its input files.

    A field without `From` is the key of its own name, at the top of the configuration or in `select`.
    """

    @classmethod
    def of(cls, config: Any) -> Self:
        """These settings by a configuration."""
        return cls(**{name: cls._found(config, name) for name in cls.model_fields})

    @classmethod
    def _found(cls, config: Any, name: str) -> Any:
        places = [m.place for m in cls.model_fields[name].metadata if isinstance(m, From)]
        own = name if name in type(config).model_fields else f"select.{name}"
        place = places[0] if places else own
        return place(config) if callable(place) else reduce(getattr, place.split("."), config)


def _without_source(config: Any) -> PoolColumns:
    columns: PoolColumns = config.pool.columns
    return columns.model_copy(update={"source": None})


# Fields that several stages have.
Columns = Annotated[PoolColumns, From("pool.columns")]
TextColumns = Annotated[PoolColumns, From(_without_source)]
OfBadRecords = Annotated[BadRecords, From("pool.bad_records")]
Delimiter = Annotated[str, From("reference.delimiter")]
SelectionExamples = Annotated[int, From("reference.selection_examples")]
ProbeRate = Annotated[StepRate, From("probe.learning_rate")]
SequenceLength = Annotated[int, From("sample.sequence_length")]
