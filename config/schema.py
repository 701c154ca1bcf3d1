"""What one run is: every key of params.json, with its type, default, bounds and meaning."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema

import include
from config.parts import (
    MOST_GROUPS,
    Colour,
    EarlyStopping,
    Flag,
    Monitor,
    Name,
    Normalization,
    Part,
    ProgressiveResizing,
    Rate,
    RateRange,
    Search,
    distinct,
    named,
    not_a_flag,
    not_a_path,
    whole,
)
from utils import did_you_mean, to_json, write_atomic

# Keys that change how fast a run goes or what is said of it, not what is learned.
FREE_KEYS: Final = frozenset(
    {"about", "cache", "cache_gigabytes", "checkpoint_minutes", "gpu_gigabytes", "monitor", "num_workers", "trackers"}
)


class Params(Part):
    """One run. Each value has been checked, alone and with the others; nothing changes afterwards."""

    about: str | dict[str, Any] | None = Field(
        default=None, description="notes: what this run shows, where numbers come from"
    )

    # --- the net ---
    arch: Annotated[Name, AfterValidator(not_a_path)] = Field(
        description='shallow, deep, conv, mambavision_t, a net of torchvision or timm, or the "net.py" beside this file'
    )
    pretrain: Annotated[Flag | Name, AfterValidator(not_a_flag)] = Field(
        default=True, description="0: random weights; 1: the library's; or a weights name, file or experiment folder"
    )
    n_clas: int | None = Field(default=None, ge=2, le=1_000_000, description="number of classes; null: as the data has")
    channels: Annotated[Literal[1, 3], BeforeValidator(whole)] = Field(default=3, description="1: grey; 3: colour")
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
    augment: list[Annotated[Name | dict[str, Any], AfterValidator(named)]] = Field(
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
    gpu_gigabytes: float = Field(
        default=8.0, ge=0, description="memory of the GPU that they may take too, if it has one"
    )
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
        default="frozen_eval",
        description="BatchNorm uses stored statistics: never, in frozen groups, in all but a new head",
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
    metrics: Annotated[list[Name], AfterValidator(distinct)] = Field(
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
    trackers: Annotated[list[Literal["tensorboard", "mlflow"]], Field(max_length=10), AfterValidator(distinct)] = Field(
        default=[], description="programs that the history is told to as well"
    )
    checkpoint_minutes: float = Field(
        default=0.0, ge=0, description="minutes between checkpoints within an epoch; 0: at its end only"
    )

    # --- the machine ---
    cuda: Flag = Field(default=True, description="1: use a GPU where there is one")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto", description="number format of the net")
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(default="auto", description="image layout")
    compile: Flag = Field(default=False, description="1: let torch compile the net, which seldom pays back on a CPU")
    threads: int = Field(
        default=0, ge=0, le=1024, description="CPU threads; 0: one for each core that is idle when it starts"
    )
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

    @field_validator("compile")
    @classmethod
    def _not_looked_into(cls, value: bool, info: ValidationInfo) -> bool:
        monitor = info.data.get("monitor")
        watched = Monitor().what if monitor is True else monitor.what if monitor else []
        if value and {"activations", "histograms"} & {*watched}:
            raise ValueError('it must be 0, or monitor {"what": ["updates"]}, as a compiled net cannot be looked into')
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
