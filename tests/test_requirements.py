"""The three lists of packages agree: pyproject.toml, requirements.txt and requirements.lock."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

import include

PROJECT = tomllib.loads((include.ROOT / "pyproject.toml").read_text())
CORE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
REST = [*(line for lines in EXTRAS.values() for line in lines), *PROJECT["dependency-groups"]["dev"]]
LOCK = (include.ROOT / "requirements.lock").read_text()
PINNED = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", LOCK, re.MULTILINE))


def test_requirements_are_the_core():
    lines = (include.ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == CORE


@pytest.mark.parametrize("line", [*CORE, *REST])
def test_the_lock_is_within_the_ranges(line):
    requirement = Requirement(line)
    assert requirement.specifier.contains(PINNED[requirement.name])


def test_every_package_in_the_lock_has_hashes():
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) >= 50
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_serves_linux_and_macos():
    """CUDA's packages are for Linux alone."""
    cuda = [line for line in LOCK.splitlines() if line.startswith(("nvidia-", "triton"))]
    assert cuda
    assert all("sys_platform == 'linux'" in line for line in cuda)
