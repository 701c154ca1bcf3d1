"""The training loops that are held against each other. Imports none of them."""

from typing import Final, NamedTuple

OURS: Final = "dossier"


class Loop(NamedTuple):
    """A way to train.

    Attributes:
        function: module and function that runs it.
        packages: beside torch and torchvision.
        tuned: whether its switches for speed are on.
    """

    function: str
    packages: tuple[str, ...] = ()
    tuned: bool = False


LOOPS: Final = {
    OURS: Loop("ours:dossier"),
    "limit": Loop("ours:limit"),
    "torchvision": Loop("torchvision_loop:run"),
    "torchvision tuned": Loop("torchvision_loop:run", tuned=True),
    "fastai": Loop("fastai_loop:run", ("fastai",)),
    "fastai tuned": Loop("fastai_loop:run", ("fastai",), tuned=True),
    "lightning": Loop("lightning_loop:run", ("lightning",)),
    "lightning tuned": Loop("lightning_loop:run", ("lightning",), tuned=True),
}
