"""What one run is: every key of params.json, with its type, default, bounds and meaning."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema

import include
from utils import did_you_mean, to_json, write_atomic

MOST_GROUPS = 64
# Keys that change how fast a run goes or what is said of it, not what is learned.
FREE_KEYS: Final = frozenset({"about", "cache", "cache_gigabytes", "checkpoint_minutes", "monitor", "num_workers"})


def _flag(value: Any) -> Any:
    return bool(value) if type(value) is int and value in (0, 1) else value


def _not_a_flag(value: bool | str) -> bool | str:
    if isinstance(value, str) and value.lower() in ("0", "1", "true", "false", "yes", "no", "none", "null"):
        raise ValueError("it must be 0 or 1 without quotes, the name of weights, or a path")
    return value


def _whole(value: Any) -> Any:
    if type(value) is not int:
        raise ValueError("it must be 1 or 3")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it must hold no control characters")
    return value


def _not_a_path(value: str) -> str:
    if value != "net.py" and (value.endswith(".py") or set(value) & set("/\\")):
        raise ValueError('it must be a name, or "net.py" for the net.py beside this file')
    return value


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("it must name each one once")
    return values


def _named(value: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(value, dict) and not (isinstance(value.get("name"), str) and value["name"]):
        raise ValueError('it must hold a "name", and may hold arguments')
    return value


Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"enum": [0, 1, False, True]})]
Name = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]
Rate = Annotated[float, Field(ge=0)]
Colour = Annotated[int, Field(ge=0, le=255)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class RateRange(_Part):
    """Learning rates spread geometrically over the layer groups."""

    low: float = Field(gt=0, description="learning rate of the first layer group")
    high: float = Field(gt=0, description="learning rate of the head")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError("its low must be below its high")
        return self


class Normalization(_Part):
    """Channel statistics of pixel values scaled to [0, 1]."""

    mean: list[float] = Field(min_length=1, max_length=3, description="mean of each channel")
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=3, description="deviation of each")


class ProgressiveResizing(_Part):
    """Smaller images in the first epochs, which take less time."""

    im_sz: int = Field(ge=8, le=1024, description="side of the images in the first epoch, in pixels")
    epochs: int = Field(ge=1, le=1_000_000, description="epochs in which it grows, in equal steps, to the full im_sz")


class EarlyStopping(_Part):
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


class Monitor(_Part):
    """What is taken down of the inside of a net while it trains."""

    interval: int = Field(default=50, ge=1, le=1_000_000, description="optimizer steps between two looks")
    what: Annotated[
        list[Literal["activations", "updates", "histograms"]], Field(max_length=10), AfterValidator(_distinct)
    ] = Field(
        default=["activations", "updates", "histograms"],
        description="what is looked at beside the gradients: activations of each layer, updates of each layer group, "
        "histograms of each layer's weights, gradients and activations",
    )


class Pruner(_Part):
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


class Search(_Part):
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


class Params(_Part):
    """One run. Each value has been checked, alone and with the others; nothing changes afterwards."""

    about: str | dict[str, Any] | None = Field(
        default=None, description="notes: what this run shows, where numbers come from"
    )

    # --- the net ---
    arch: Annotated[Name, AfterValidator(_not_a_path)] = Field(
        description="shallow, deep, conv, mambavision_t …, a torchvision or timm model, or net.py for the one beside it"
    )
    pretrain: Annotated[Flag | Name, AfterValidator(_not_a_flag)] = Field(
        default=True, description="0: random weights; 1: the library's; or a weights name, file or experiment folder"
    )
    n_clas: int | None = Field(default=None, ge=2, le=1_000_000, description="number of classes; null: as the data has")
    channels: Annotated[Literal[1, 3], BeforeValidator(_whole)] = Field(default=3, description="1: grey; 3: colour")
    head: Literal["backbone", "concat_pool"] = Field(
        default="backbone", description="the backbone's own head, or average and maximum pooling with two layers"
    )
    ps: float = Field(default=0.5, ge=0, lt=1, description="dropout probability in the head")

    # --- the images ---
    im_sz: int = Field(default=224, ge=8, le=1024, description="side of the square image the net sees, in pixels")
    resize: Literal["crop", "letterbox", "squash"] = Field(default="crop", description="how an image becomes square")
    crop_fraction: float = Field(default=0.875, ge=0.1, le=1, description="im_sz over the short side before the crop")
    normalize: Literal["auto"] | Normalization = Field(
        default="auto", description="channel statistics; auto: those of the weights, else of the training images"
    )
    background: list[Colour] = Field(
        default=[255, 255, 255], min_length=3, max_length=3, description="RGB behind transparent pixels and letterboxes"
    )
    skip_bad: Flag = Field(default=False, description="1: count and list unreadable images; 0: stop at them")
    max_megapixels: float = Field(default=50.0, gt=0, description="largest image that is opened")
    augment: list[Annotated[Name | dict[str, Any], AfterValidator(_named)]] = Field(
        default=["random_resized_crop", "horizontal_flip"],
        max_length=100,
        description='augmentations in order, each a name or {"name": …, arguments}',
    )
    progressive_resizing: ProgressiveResizing | None = Field(
        default=None, description="smaller training images in the first epochs; null: im_sz in all"
    )
    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup's Beta distribution; 0: off")
    cutmix: float = Field(default=0.0, ge=0, description="alpha of cutmix's Beta distribution; 0: off")
    mixing_off_epochs: int = Field(default=0, ge=0, le=1_000_000, description="last epochs without mixup and cutmix")
    sampler: Literal["shuffle", "weighted"] = Field(
        default="shuffle", description="each image once per epoch, or classes drawn equally often"
    )
    overfit: int = Field(
        default=0, ge=0, le=1_000_000, description="debugging: train on so many images only, not augmented; 0: off"
    )
    cache: Literal["auto", "memory", "disk", "none"] = Field(
        default="auto", description="where decoded images are kept"
    )
    cache_gigabytes: float = Field(default=4.0, ge=0, description="memory the decoded images may take")
    num_workers: int = Field(default=2, ge=0, le=64, description="threads or processes that decode images")

    # --- the training ---
    num_epochs: int = Field(default=10, ge=1, le=1_000_000, description="passes over the training images")
    batch_size: int = Field(default=64, ge=1, le=1_000_000, description="training images per step")
    bs_test: int | None = Field(
        default=None, ge=1, le=1_000_000, description="images per batch in evaluation; null: batch_size"
    )
    learning_rate: Rate | Annotated[list[Rate], Field(min_length=1, max_length=MOST_GROUPS)] | RateRange = Field(
        default=1e-3, description="peak rate: one, a list with one per layer group (stem first), or a range of them"
    )
    layer_groups: int = Field(
        default=3, ge=1, le=MOST_GROUPS, description="parts of the net, stem to head, with learning rates of their own"
    )
    freeze: Literal["none", "body", "gradual"] = Field(
        default="none", description="layers kept as they came: none, all but the head, or thawed from the head down"
    )
    unfreeze_epochs: int = Field(default=1, ge=1, le=1_000_000, description="gradual: epochs between two thaws")
    batch_norm: Literal["train", "frozen_eval", "all_eval"] = Field(
        default="frozen_eval", description="BatchNorm uses stored statistics: never, in frozen groups, everywhere"
    )
    loss: Name = Field(default="cross_entropy", description="training loss")
    loss_arguments: dict[str, Any] = Field(default={}, description="arguments of the loss")
    optimizer: Name = Field(default="AdamW", description="any optimizer of torch.optim")
    optimizer_arguments: dict[str, Any] = Field(default={}, description="arguments of the optimizer")
    wd: float = Field(default=1e-4, ge=0, description="weight decay; norms, biases and class tokens have none")
    scheduler: Name = Field(
        default="one_cycle",
        description="one_cycle, cosine, flat_cosine, step, constant, or any of torch.optim.lr_scheduler",
    )
    scheduler_arguments: dict[str, Any] = Field(default={}, description="arguments of the scheduler")
    div_factor: float = Field(default=25.0, gt=1, description="peak learning rate over the one at the start")
    pct_start: float = Field(default=0.3, gt=0, lt=1, description="part of the training in which the rate rises")
    gradient_accumulation: int = Field(default=1, ge=1, le=1_000_000, description="batches per optimizer step")
    gradient_clip: float = Field(default=0.0, ge=0, description="largest norm of the gradient; 0: off")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="decay of the weights' moving average; 0: off")
    average_epochs: int = Field(default=5, ge=1, le=1_000_000, description="last epochs whose mean weights_averaged is")

    # --- the measures ---
    metrics: Annotated[list[Name], AfterValidator(_distinct)] = Field(
        default=["accuracy"], max_length=100, description="what is measured beside the loss"
    )
    best_metric: Name = Field(
        default="accuracy",
        validate_default=True,
        description="what weights_best is best at on valid: loss, or one of metrics",
    )
    early_stopping: EarlyStopping | None = Field(default=None, description="when to end before num_epochs; null: never")
    save_summary_steps: int = Field(
        default=100, ge=1, le=1_000_000, description="steps between two rows of the history"
    )
    monitor: Flag | Monitor = Field(
        default=False, description="1: watch gradients, updates and activations, and warn; or an object; 0: off"
    )
    checkpoint_minutes: float = Field(
        default=0.0, ge=0, description="minutes between checkpoints within an epoch; 0: at its end only"
    )

    # --- the machine ---
    cuda: Flag = Field(default=True, description="1: use a GPU where there is one")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto", description="number format of the net")
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(default="auto", description="image layout")
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads; 0: chosen from the machine")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="what every random number follows from")

    hyper_search: dict[str, Any] | None = Field(
        default=None, description="search_hyperparams.py: the values to try for each named parameter"
    )
    search: Search | None = Field(
        default=None, description="search_hyperparams.py: how to try them; null: every combination once"
    )

    @model_validator(mode="before")
    @classmethod
    def _groups_from_rates(cls, data: Any) -> Any:
        rates = data.get("learning_rate") if isinstance(data, dict) else None
        if isinstance(rates, list) and 0 < len(rates) <= MOST_GROUPS and "layer_groups" not in data:
            return {**data, "layer_groups": len(rates)}
        return data

    # A validator of a field sees in info.data only the fields before it that are right: one wrong value is told once.

    @field_validator("learning_rate")
    @classmethod
    def _not_zero(cls, value: float | list[float] | RateRange) -> float | list[float] | RateRange:
        if not value or (isinstance(value, list) and not any(value)):
            raise ValueError("it must be above 0 somewhere, or nothing is learnt")
        return value

    @field_validator("layer_groups")
    @classmethod
    def _as_many_as_rates(cls, value: int, info: ValidationInfo) -> int:
        rates = info.data.get("learning_rate")
        if isinstance(rates, list) and len(rates) != value:
            raise ValueError(f"it must be {len(rates)}, as learning_rate lists {len(rates)}; or leave it out")
        return value

    @field_validator("normalize")
    @classmethod
    def _as_many_as_channels(cls, value: Any, info: ValidationInfo) -> Any:
        channels = info.data.get("channels")
        if channels and isinstance(value, Normalization) and not len(value.mean) == len(value.std) == channels:
            raise ValueError(f"its mean and its std must hold {channels} numbers, as there are channels")
        return value

    @field_validator("progressive_resizing")
    @classmethod
    def _grows(cls, value: ProgressiveResizing | None, info: ValidationInfo) -> ProgressiveResizing | None:
        full = info.data.get("im_sz")
        if value and full and value.im_sz >= full:
            raise ValueError(f"its im_sz must be below im_sz, {full}")
        return value

    @field_validator("best_metric")
    @classmethod
    def _measured(cls, value: str, info: ValidationInfo) -> str:
        if problem := _unmeasured(value, info):
            raise ValueError(f"it must be {problem}")
        return value

    @field_validator("early_stopping")
    @classmethod
    def _monitor_measured(cls, value: EarlyStopping | None, info: ValidationInfo) -> EarlyStopping | None:
        if value and (problem := _unmeasured(value.monitor_metric, info)):
            raise ValueError(f"its monitor_metric must be {problem}")
        return value

    @field_validator("search")
    @classmethod
    def _compared_measured(cls, value: Search | None, info: ValidationInfo) -> Search | None:
        if value and value.metric and (problem := _unmeasured(value.metric, info)):
            raise ValueError(f"its metric must be {problem}")
        metric = value and (value.metric or info.data.get("best_metric"))
        if value and value.mode and metric and value.mode != (better := "min" if metric == "loss" else "max"):
            raise ValueError(f'its mode must be "{better}" or null, as it compares by {metric}')
        return value


def _unmeasured(name: str, info: ValidationInfo) -> str | None:
    choices = ["loss", *info.data.get("metrics", [name])]
    return None if name in choices else f'"loss" or listed in metrics{did_you_mean(name, choices)}'


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """The JSON schema of params.json, from which editors complete it and messages say what is allowed."""
    schema = Params.model_json_schema(schema_generator=_Untitled)
    schema["properties"]["$schema"] = {"type": "string", "description": "where an editor finds this schema"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    write_atomic(include.ROOT / "params.schema.json", to_json(json_schema()))
