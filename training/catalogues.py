"""The names that only torch knows, for the one pass in which params.json is checked."""

from config.load import Catalogues
from images import augment
from model import loss, metric, net, optim, schedule


def catalogues() -> Catalogues:
    """For each key that holds names: the names there are, each with the arguments it takes (None: not checked)."""
    return {
        "arch": net.arch_names(),
        "optimizer": optim.catalogue(),
        "scheduler": schedule.catalogue(),
        "loss": loss.catalogue(),
        "metrics": metric.catalogue(),
        "augment": augment.catalogue(),
    }
