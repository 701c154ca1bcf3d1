"""A net that torch compiles, fusing operations. `python -m bench.compile`: after how many images that pays back."""

import os
import shutil
import sys
from typing import Final

from torch import nn

from utils import UserError

SHAPES: Final = 64  # of images, each while training and while evaluating, with each set of frozen groups


def compile_net(net: nn.Module) -> None:
    """Makes calls of a net compile it when they meet a shape for the first time; names, weights and copies stay.

    Each shape has code of its own: what is computed then does not depend on which shapes came before, so that a run
    that is continued goes on as it would have.

    Raises:
        UserError: when there is no C++ compiler, which torch needs.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"compile: 1 needs a C++ compiler, and there is no {compiler}; install one, or set CXX")
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = SHAPES
    net.compile(dynamic=False)
