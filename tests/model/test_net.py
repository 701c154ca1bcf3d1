"""The names of `arch`, and the experiment's own net.py: each of its mistakes is one line that says where."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import include
from config.schema import Params
from model.mambavision import SIZES
from model.net import ARCHS, arch_names, build_net
from utils import UserError

OWN = """
from torch import nn

def build_net(params, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(params.channels * params.im_sz ** 2, num_classes))
"""


def own_net(folder: Path, source: str) -> Params:
    (folder / "net.py").write_text(source, encoding="utf-8")
    return Params(arch="net.py", im_sz=8)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_are_a_catalogue() -> None:
    names = arch_names()
    assert [*names][:10] == [*ARCHS, *SIZES, "net.py", "alexnet"]
    assert len(names) == len(set(names)) >= 84
    for name in ("conv", "net.py", "resnet18", "vit_h_14"):
        assert name in names
        assert names[name] is None
    for unknown in ("resnet19", "Net.py", "", "timm:", 18):
        assert unknown not in names
    with pytest.raises(KeyError):
        names["resnet19"]


def test_names_of_timm() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    names = arch_names()
    assert len(names) > 1000
    for name in ("resnet26", "timm:resnet26", "timm:resnet18", "timm:resnet18.a1_in1k", "resnet18.a1_in1k"):
        assert name in names
    assert "timm:resnet19" not in names


def test_libraries_are_imported_only_when_asked_for() -> None:
    code = """
import sys
from model.net import arch_names
from config.schema import Params
from model.net import build_net
names = arch_names()
assert "conv" in names and "net.py" in names
build_net(Params(arch="conv", im_sz=28), 10)
assert not {"torchvision", "timm"} & set(sys.modules)
assert "resnet18" in names
assert "torchvision" in sys.modules and "timm" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, check=True)


def test_an_unknown_arch_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'^"resnet81" is not a known arch; did you mean "resnet18"'):
        build_net(Params(arch="resnet81"), 3)


# --- the experiment's own net -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_another_head_is_refused_where_it_would_be_ignored(arch: str) -> None:
    with pytest.raises(UserError, match=rf'^head: {arch} has no head but its own; use "head": "backbone"$'):
        build_net(Params(arch=arch, pretrain=False, head="concat_pool"), 3)


def test_own_net(tmp_path: Path) -> None:
    params = own_net(tmp_path, OWN)
    first, second = build_net(params, 3, tmp_path), build_net(params, 3, tmp_path)
    assert first.net.training
    assert (first.statistics, first.weights) == (None, None)
    assert first.net(torch.zeros(4, 3, 8, 8)).shape == (4, 3)
    second.net.load_state_dict(first.net.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]


def test_own_nets_do_not_meet(tmp_path: Path) -> None:
    classes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        source = OWN.replace("def build", f"class Net(nn.Linear):\n    mark = '{name}'\n\ndef build")
        params = own_net(tmp_path / name, source.replace("nn.Linear(params", "Net(params"))
        classes.append(type(build_net(params, 3, tmp_path / name).net.get_submodule("1")))
    assert [c.mark for c in classes] == ["a", "b"]  # type: ignore[attr-defined]
    assert classes[0].__module__ != classes[1].__module__
    assert [sys.modules[c.__module__].Net for c in classes] == classes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import torch\n\ndef build_net(params num_classes):\n", r"net\.py:3: SyntaxError: "),
        ("import torch\nimport nowhere\n", r"net\.py:2: ModuleNotFoundError: No module named 'nowhere'$"),
        ("x = 1\n", r"net\.py: it must define build_net\(params, num_classes\)$"),
        ("build_net = 3\n", r"net\.py: it must define build_net"),
        (
            "def build_net(params, num_classes):\n    return 3\n",
            r"net\.py: build_net must return an nn.Module, got int$",
        ),
        ("def build_net(params):\n    return 3\n", r"net\.py: TypeError: build_net\(\) takes 1 positional argument"),
        (OWN.replace("num_classes))", "num_classes + 1))"), r"logits of shape \(2, 3\), got shape \(2, 4\)$"),
        (OWN.replace("params.im_sz", "params.size"), r"net\.py:5: AttributeError: .*no attribute 'size'$"),
        (OWN.replace("    return", "    raise ValueError('one\\ntwo')\n    return"), r"net\.py:5: ValueError: one$"),
        (OWN.replace("    return", "    raise SystemExit(0)\n    return"), r"net\.py:5: SystemExit: 0$"),
        (OWN.replace("** 2", "** 3"), r"net\.py: RuntimeError: .*mat1 and mat2 shapes cannot be multiplied"),
        (
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x.nothing\n"
            "def build_net(params, num_classes):\n    return Net()\n",
            r"net\.py:4: AttributeError",
        ),
        (
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return [x]\n"
            "def build_net(params, num_classes):\n    return Net()\n",
            r"logits of shape \(2, 3\), got no tensor$",
        ),
        ("\0", r"net\.py: SyntaxError: "),
    ],
)
def test_mistakes_in_an_own_net_are_one_line(tmp_path: Path, source: str, message: str) -> None:
    params = own_net(tmp_path, source)
    with pytest.raises(UserError, match=message) as caught:
        build_net(params, 3, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "net.py"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_a_missing_own_net(folder: str | None) -> None:
    with pytest.raises(UserError, match=r"net\.py: no such file, but arch is net\.py$"):
        build_net(Params(arch="net.py"), 3, folder and Path(folder))  # type: ignore[arg-type]


def test_each_side_on_the_way_is_tried(tmp_path: Path) -> None:
    source = (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, classes):\n        super().__init__()\n"
        "        self.layer = nn.Linear(3, classes)\n    def forward(self, images):\n"
        "        assert images.shape[-1] % 16 == 0, 'sides of 16'\n        return self.layer(images.mean((2, 3)))\n"
        "def build_net(params, num_classes):\n    return Net(num_classes)\n"
    )
    (tmp_path / "net.py").write_text(source)
    given = {"arch": "net.py", "im_sz": 64, "pretrain": False, "num_epochs": 4}
    build_net(
        Params.model_validate(given | {"progressive_resizing": {"im_sz": 32, "epochs": 2}}), 3, tmp_path
    )  # 32, 48
    with pytest.raises(
        UserError, match=r"^progressive_resizing: net\.py takes no images of 40 pixels .* for 64 \(sides"
    ):
        build_net(Params.model_validate(given | {"progressive_resizing": {"im_sz": 32, "epochs": 4}}), 3, tmp_path)


def test_an_own_nets_declared_head_is_new_for_other_classes(tmp_path: Path) -> None:
    source = (
        "import torch\nfrom torch import nn\nclass Cosine(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__()\n        self.weight = nn.Parameter(torch.randn(classes, 4))\n"
        "    def forward(self, x):\n        return x @ self.weight.T\n"
        "class Net(nn.Module):\n    head_prefix = 'head'\n    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.body, self.head = nn.Linear(3, 4), Cosine(classes)\n"
        "    def forward(self, images):\n        return self.head(self.body(images.mean((2, 3))))\n"
        "def build_net(params, num_classes):\n    return Net(num_classes)\n"
    )
    (tmp_path / "net.py").write_text(source)
    given = {"arch": "net.py", "im_sz": 8}
    first = build_net(Params.model_validate(given | {"pretrain": False}), 5, tmp_path).net
    torch.save(first.state_dict(), tmp_path / "weights.pth")
    built = build_net(Params.model_validate(given | {"pretrain": str(tmp_path / "weights.pth")}), 3, tmp_path)
    assert built.weights is not None
    assert built.weights["head"] == "new"
    assert torch.equal(built.net.get_parameter("body.weight"), first.get_parameter("body.weight"))
