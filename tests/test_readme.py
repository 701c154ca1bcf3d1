"""What the documents say is true: commands run and print what is shown, files and options exist."""

import re
import runpy
from pathlib import Path
from typing import NamedTuple

import pytest
from torch.distributed.run import get_args_parser

import include
from config import run_folder
from config.load import load_params
from tests.documents import DOCUMENTS, TUTORIAL, agree, blocks, copy_tree, run, steps
from training.catalogues import catalogues
from training.reference import PAGE, reference

SCRIPTS = sorted(path for path in include.ROOT.glob("*.py") if path.stem not in ("include", "utils"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
FILE = re.compile(r"`([\w./-]+(?:\.(?:py|json|png|npz|md|csv|txt|pt|pkl|log|safetensors|diff|toml|lock)|/))`")

# Files of an experiment that no command of the documents makes.
ASKED_FOR = (run_folder.LR_FIND, run_folder.MLFLOW, run_folder.MONITOR, run_folder.calibration_name("best"))


def name_of(document: Path) -> str:
    return document.relative_to(include.ROOT).as_posix()


def prose(document: Path) -> str:
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


# --- what can be seen without running anything ---------------------------------------------------------------------


def test_the_page_of_parameters_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -m training.reference"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for path, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], anchor


def test_options_exist(capsys):
    for script in SCRIPTS:
        with pytest.raises(SystemExit):
            runpy.run_path(str(script))["main"](["--help"])
    helps = capsys.readouterr().out + get_args_parser().format_help()
    known = set(re.findall(r"--[a-z][a-z_]+", helps))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_]+", "".join(document.read_text() for document in DOCUMENTS)))
    assert len(named) > 15
    others = {
        "--group",
        "--head",
        "--mem",
        "--logdir",
        "--params",
        "--im_sz",
        "--json",
        "--load",
        "--pairs",
        "--python",
        "--train",
        "--valid",
        "--epochs",
        "--repeats",
        "--rounds",
        "--experiment",
        "--scale",
        "--peaks",
        "--image",
        "--peers",
        "--megapixels",
        "--arch",
    }  # pip's, ray's, sbatch's, tensorboard's, benchmarks'
    chromium = {"--headless", "--no", "--hide", "--window", "--screenshot"}  # the beginnings of its options
    assert named - known <= others | chromium


def test_examples_of_params_are_valid(tmp_path):
    examples = [block.text for document in DOCUMENTS for block in blocks(document) if '"arch"' in block.text]
    assert len(examples) >= 5
    for example in examples:
        (tmp_path / "params.json").write_text(example, encoding="utf-8")
        load_params(tmp_path / "params.json", catalogues=catalogues())


def test_pictures_are_small():
    for picture in (include.ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 200_000
        assert any(f"{picture.name})" in document.read_text(encoding="utf-8") for document in DOCUMENTS)


def test_agreement_sees_differences():
    shown = "…\nepoch   3  accuracy 0.97  12 images/s  *\n…\naccuracy   0.9900  0.97 to 1.0\ndone: 5\n"
    real = "x\ny\nepoch   3  accuracy 0.91  9 images/s\naccuracy  0.9850   0.9 to 1.00\ndone: 5\n"
    assert agree(shown, real)
    for old, new in (("epoch   3", "epoch   4"), ("done: 5", "done: 6"), ("0.9850", "0.9350"), ("done", "more\ndone")):
        assert not agree(shown, real.replace(old, new))
    assert not agree("", "x\n")


# --- what is run ---------------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A command of a document, with what it should and what it did print."""

    place: str
    command: str
    code: int
    shown: str
    real: str


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A fresh copy of the repository, in which the documents are gone through from the first to the last."""
    target = tmp_path_factory.mktemp("dossier")
    copy_tree(target)
    return target


@pytest.fixture(scope="module")
def ran(copy):
    found, code = [], 0
    for document in TUTORIAL:
        for block in blocks(document):
            if block.file:
                (copy / block.file).parent.mkdir(parents=True, exist_ok=True)
                (copy / block.file).write_text(block.text, encoding="utf-8")
            for step in steps(block) if block.kind == "console" else ():
                code, real = run(step, copy, code)
                found.append(Ran(f"{name_of(document)}:{block.line}", step.command, code, step.shown, real))
    return found


@pytest.mark.slow
def test_every_command_prints_what_is_shown(ran):
    assert len(ran) >= 25
    wrong = [one for one in ran if not agree(one.shown, one.real)]
    assert not wrong, "\n\n".join(f"{r.place}\n$ {r.command}\n{r.real}" for r in wrong)


@pytest.mark.slow
def test_every_command_ends_well_unless_its_exit_code_is_shown(ran):
    for one, following in zip(ran, [*ran[1:], None], strict=True):
        asked = following is not None and following.command == "echo $?"
        expected = 130 if "^C" in one.shown else 0
        assert asked or one.code == expected, f"{one.place}: $ {one.command}: exit code {one.code}"


@pytest.mark.slow
@pytest.mark.parametrize("document", [*TUTORIAL, include.ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_file_named_is_there(document, ran, copy):
    """In the repository, among what the commands made, or made only where it is asked for."""
    there = {"/".join(path.parts[-depth:]) for path in copy.rglob("*") for depth in range(1, 5)}
    there |= {f"{name}/" for name in there} | set(ASKED_FOR)
    assert set(FILE.findall(prose(document))) <= there


@pytest.mark.slow
def test_every_file_of_an_experiment_is_explained(ran, copy):
    text = (include.ROOT / "docs/experiment_folder.md").read_text(encoding="utf-8")
    results = {
        path.name for path in (copy / "experiments/digits").iterdir() if not path.name.startswith((".", "before-"))
    }
    assert len(results) > 20
    assert {name for name in results if f"`{name}`" not in text and f"`{name}/`" not in text} <= {"report"}
