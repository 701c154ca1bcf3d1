"""What a trained experiment says of images in PyTorch: what every exported file is measured by."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from config import run_folder
from config.load import is_weights_path
from config.parts import Normalization
from export.contract import Contract, fitted
from export.session import Outputs, Run
from images.augment import normalise
from images.view import Pixels, View
from training.environment import program
from training.trained import Trained
from utils import UserError


def contract_of(trained: Trained) -> Contract:
    """What the experiment's exported files say of themselves."""
    params, environment = trained.params, trained.environment
    if not isinstance(params.normalize, Normalization):
        raise UserError(f"{trained.folder}/{run_folder.PARAMS_RESOLVED}: normalize holds no numbers; train anew")
    here = program()
    given = params.model_dump(mode="json", exclude={"hyper_search", "search"})  # of others than this one
    if is_weights_path(params.pretrain):
        given["pretrain"] = Path(given["pretrain"]).name  # where it lay is nobody's business
    provenance = {
        "params": given,
        "data_fingerprint": environment["data"]["fingerprint"],
        "pretrained_weights": environment["weights"],
        "trained_with": environment["packages"],
        "trained_at_commit": environment["commit"],
        "exported_with": here.packages,
        "exported_at_commit": here.commit,
    }
    return Contract(
        name=trained.folder.path.resolve().name,
        classes=trained.classes,
        multi_label=trained.multi_label,
        im_sz=params.im_sz,
        channels=params.channels,
        resize=params.resize,
        crop_fraction=params.crop_fraction,
        background=list(params.background),
        max_megapixels=params.max_megapixels,
        mean=list(params.normalize.mean),
        std=list(params.normalize.std),
        **fitted(trained.folder, trained.weights)._asdict(),
        weights=trained.weights,
        weights_sha256=trained.folder.digests()[run_folder.weights_name(trained.weights)],
        provenance=provenance,
    )


def reference(trained: Trained, net: nn.Module, contract: Contract) -> Run:
    """The way of evaluation, from decoded RGB images to probabilities and logits, in float32 on the CPU."""
    net.eval()

    def run(images: Pixels) -> Outputs:
        with torch.inference_mode():
            logits = net(fed(trained, images, contract))
            cooled = logits / contract.temperature
            probabilities = cooled.sigmoid() if contract.multi_label else cooled.softmax(1)
        return probabilities.numpy(), logits.numpy()

    return run


def fed(trained: Trained, images: Pixels, contract: Contract) -> torch.Tensor:
    """What the net is fed in evaluation: float32 (N, C, S, S) of decoded images uint8 (N, H, W, 3)."""
    view = View.of(trained.params, training=False)
    if contract.channels == 1:
        images = np.stack([np.array(Image.fromarray(image).convert("L"))[..., None] for image in images])
    kept = torch.from_numpy(np.stack([view.apply(image) for image in images]))
    return normalise(kept.permute(0, 3, 1, 2), contract.mean, contract.std)
