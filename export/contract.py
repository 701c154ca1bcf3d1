"""What an exported model says of itself: what goes in, what comes out, and where it is from. No torch."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config import run_folder
from config.run_folder import RunFolder
from utils import UserError, printable

FORMATS: Final = ("onnx", "pt2", "safetensors")  # what a model is exported to
KEY: Final = "dossier"  # of the model's metadata
INPUT: Final = "images"
PROBABILITIES: Final = "probabilities"
LOGITS: Final = "logits"


class Contract(BaseModel):
    """The metadata of an exported model.

    Its input is uint8 (batch, height, width, 3): upright RGB images of any one size. Its outputs are float32
    (batch, classes): probabilities, and the logits they come from.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    name: str
    classes: list[str] = Field(min_length=2)
    multi_label: bool
    im_sz: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    resize: Literal["crop", "letterbox", "squash"]
    crop_fraction: float = Field(gt=0, le=1)
    background: list[Annotated[int, Field(ge=0, le=255)]] = Field(min_length=3, max_length=3)
    max_megapixels: float = Field(gt=0)
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    temperature: float = Field(default=1.0, gt=0)
    threshold: float | None = Field(default=None, ge=0, le=1)
    accuracy_target: float | None = Field(default=None, gt=0, lt=1)
    precision: Literal["fp32", "int8"] = "fp32"
    weights: str
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _as_many_as_channels(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("its mean and its std must hold a number for each channel")
        if (self.threshold is None) != (self.accuracy_target is None):
            raise ValueError("a threshold and its accuracy_target go together")
        return self

    @property
    def fitted(self) -> "Fitted":
        """What was fitted on the validation split."""
        return Fitted(self.temperature, self.threshold, self.accuracy_target)

    def as_json(self) -> str:
        """As JSON, in ASCII; what it does not have is left out, so that earlier versions can read it."""
        return json.dumps(self.model_dump(exclude_none=True), ensure_ascii=True, allow_nan=False)

    def to_metadata(self) -> dict[str, str]:
        """As the metadata of a file."""
        return {KEY: self.as_json()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> "Contract":
        """Reads it back.

        Raises:
            UserError: the file was not made by export_model.py, by a newer one, or is damaged.
        """
        if KEY not in metadata:
            raise UserError(
                f"{where}: was not written by export_model.py: it says nothing of its classes and its input"
            )
        try:
            return cls.model_validate_json(metadata[KEY])
        except ValidationError as error:
            first = error.errors()[0]
            what = printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
            raise UserError(f"{where}: what it says of itself cannot be used ({what}); export it anew") from error


class Fitted(NamedTuple):
    """What evaluate.py fitted on the validation split for some weights.

    Args:
        temperature: what their logits are divided by.
        threshold: the probability of the best class from which on an answer is sure; None where there is none.
        accuracy_target: the share of sure answers that are right, or more, with 95% confidence.
    """

    temperature: float = 1.0
    threshold: float | None = None
    accuracy_target: float | None = None


def fitted(folder: RunFolder, weights: str) -> Fitted:
    """What was fitted for these weights; the default where nothing was.

    Raises:
        UserError: the file that holds it is damaged.
    """
    name = run_folder.calibration_name(weights)
    if not folder.file(name).is_file():
        return Fitted()
    found = folder.read_json(name)
    if found["weights_sha256"] != folder.digests().get(run_folder.weights_name(weights)):
        return Fitted()
    threshold = found["threshold"]
    return Fitted(float(found["temperature"]), threshold, None if threshold is None else found["accuracy_target"])
