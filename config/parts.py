"""The objects that params.json can hold inside, and the kinds of values of which it is made."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

MOST_GROUPS = 64


def flag(value: Any) -> Any:
    """0 and 1 as the flags they are meant as."""
    return bool(value) if type(value) is int and value in (0, 1) else value


def not_a_flag(value: bool | str) -> bool | str:
    """Refuses text that means a flag."""
    if isinstance(value, str) and value.lower() in ("0", "1", "true", "false", "yes", "no", "none", "null"):
        raise ValueError("it must be 0 or 1 without quotes, the name of weights, or a path")
    return value


def whole(value: Any) -> Any:
    """Refuses 1.0 and true, which equal 1."""
    if type(value) is not int:
        raise ValueError("it must be 1 or 3")
    return value


def is_printable(value: str) -> str:
    """Refuses control characters."""
    if not value.isprintable():
        raise ValueError("it must hold no control characters")
    return value


def not_a_path(value: str) -> str:
    """Refuses paths and Python files but net.py."""
    if value != "net.py" and (value.endswith(".py") or set(value) & set("/\\")):
        raise ValueError('it must be a name, or "net.py" for the net.py beside this file')
    return value


def distinct(values: list[str]) -> list[str]:
    """Refuses a list that names something twice."""
    if len(set(values)) < len(values):
        raise ValueError("it must name each one once")
    return values


def named(value: str | dict[str, Any]) -> str | dict[str, Any]:
    """Refuses an object without a name."""
    if isinstance(value, dict) and not (isinstance(value.get("name"), str) and value["name"]):
        raise ValueError('it must hold a "name", and may hold arguments')
    return value


Flag = Annotated[bool, BeforeValidator(flag), WithJsonSchema({"enum": [0, 1, False, True]})]
Name = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(is_printable)]
Rate = Annotated[float, Field(ge=0)]
Colour = Annotated[int, Field(ge=0, le=255)]


class Part(BaseModel):
    """An object of params.json: only known keys, each of the right type, and nothing changes afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class RateRange(Part):
    """Learning rates spread geometrically over the layer groups."""

    low: float = Field(gt=0, description="learning rate of the first layer group")
    high: float = Field(gt=0, description="learning rate of the head")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError("its low must be below its high")
        return self


class Normalization(Part):
    """Channel statistics of pixel values scaled to [0, 1]."""

    mean: list[float] = Field(min_length=1, max_length=3, description="mean of each channel")
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=3, description="deviation of each")


class ProgressiveResizing(Part):
    """Smaller images in the first epochs, which take less time."""

    im_sz: int = Field(ge=8, le=1024, description="side of the images in the first epoch, in pixels")
    epochs: int = Field(
        ge=1, le=1_000_000, description="epochs in which it grows to the full im_sz, by 8 pixels or more"
    )


class EarlyStopping(Part):
    """When a run that no longer improves ends."""

    patience: int = Field(default=5, ge=1, le=1_000_000, description="epochs without improvement that are borne")
    monitor_metric: Name = Field(default="loss", description="what is watched on valid: loss, or one of metrics")
    min_delta: float = Field(default=0.0, ge=0, description="smallest change that counts as improvement")
    minimize: Flag | None = Field(default=None, description="1: smaller is better; null: as the metric itself says")
    action: Literal["stop", "warn"] = Field(default="stop", description="end the run, or only say so in the log")
    tail_epochs: int = Field(default=2, ge=0, le=1_000, description="epochs that bring the learning rate to zero first")

    @model_validator(mode="after")
    def _direction(self) -> Self:
        if self.monitor_metric == "loss" and self.minimize is False:
            raise ValueError("its minimize must be 1 or null, as a smaller loss is better")
        return self


class Monitor(Part):
    """What is taken down of the inside of a net while it trains."""

    interval: int = Field(default=50, ge=1, le=1_000_000, description="optimizer steps between two looks")
    what: Annotated[
        list[Literal["activations", "updates", "histograms"]], Field(max_length=10), AfterValidator(distinct)
    ] = Field(
        default=["activations", "updates", "histograms"],
        description="what is looked at beside the gradients: activations of each layer, updates of each layer group, "
        "histograms of each layer's weights, gradients and activations",
    )


class Pruner(Part):
    """Which trials of a search end early, judged against others of as many epochs at the same epoch."""

    name: Literal["asha", "median", "hyperband"] = Field(
        description="successive halving that pauses and promotes; the same from several first rungs; below the median"
    )
    grace: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="epochs before anything is judged; null: a ninth of num_epochs, as reduction²",
    )
    reduction: int | None = Field(
        default=None, ge=2, le=100, description="asha and hyperband: one in so many goes on to the next rung; null: 3"
    )
    startup: int | None = Field(
        default=None, ge=1, le=100_000, description="median: judges once so many reached the epoch; null: 5"
    )

    @model_validator(mode="after")
    def _own_arguments(self) -> Self:
        foreign = "reduction" if self.name == "median" else "startup"
        if getattr(self, foreign) is not None:
            raise ValueError(f"its {foreign} is nothing to {self.name}; leave it out")
        return self


class Search(Part):
    """How search_hyperparams.py goes through hyper_search."""

    method: Literal["grid", "random", "sobol", "tpe", "gp", "cmaes"] = Field(
        default="grid",
        description="every combination; drawn at random; spread evenly (Sobol); or, after those, each where the "
        "results so far promise most: tpe, gp, cmaes",
    )
    trials: int = Field(default=20, ge=1, le=100_000, description="combinations to try; a grid tries all it has")
    seeds: int = Field(default=1, ge=1, le=100, description="trainings of each combination, each with its own seed")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="what every draw and every proposal follows from")
    metric: Name | None = Field(default=None, description="what combinations are compared by; null: best_metric")
    mode: Literal["max", "min"] | None = Field(
        default=None,
        description="what is better, more or less; null: as the metric itself says, which it must not contradict",
    )
    pruner: Literal["asha", "median", "hyperband"] | Pruner | None = Field(
        default=None, description="what ends trials early: a name, or an object with arguments; null: nothing does"
    )
    hours: float = Field(default=0.0, ge=0, description="after so many hours no more is trained; 0: no limit")
    retries: int = Field(default=1, ge=0, le=100, description="how often a failed trial is tried again")
    weights: Name | None = Field(
        default=None,
        description="what every trial starts from: a weights file, an experiment folder, or a folder of experiments "
        "(the best by the metric); null: as pretrain says",
    )
    keep_weights: Literal["all", "best", "top3", "none"] = Field(
        default="all", description="whose weights and checkpoints stay once a trial has finished"
    )

    @model_validator(mode="after")
    def _judged_alone(self) -> Self:
        if self.pruner and self.seeds > 1:
            raise ValueError(
                "its pruner judges single trainings: set seeds to 1, and confirm the winner by --confirm 6"
            )
        return self
