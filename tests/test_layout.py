"""The house rules that a program can check: who imports whom, who writes, how long things are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import include

ROOMS = (
    ("include",),
    ("utils",),
    ("config",),
    ("images",),
    ("model",),
    ("training",),
    ("generate",),
    ("reports",),
    ("export",),
    ("search",),
    ("app",),
)
FLOOR = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
SCRIPTS = sorted(p for p in include.ROOT.glob("*.py") if p.stem not in ("include", "utils"))
PACKAGES = sorted(room for room in FLOOR if (include.ROOT / room / "__init__.py").is_file())
MODULES = sorted(p for room in PACKAGES for p in (include.ROOT / room).rglob("*.py"))
SOURCES = [include.ROOT / "include.py", include.ROOT / "utils.py", *SCRIPTS, *MODULES]

WITHOUT_TORCH = ("include", "utils", "config", "search", "images/read", "images/folder", "images/shards",
                 "images/keyed_random", "model/metric", "reports/intervals", "reports/comparison",
                 "export/predictor")  # fmt: skip

# Who may write files by other means than utils.write_atomic, and why.
WRITERS = {
    "utils.py": "is the one module that writes",
    "images/archive.py": "unpacks thousands of files into a folder that is renamed when it is whole",
    "images/sources.py": "writes thousands of images into a folder that is renamed when it is whole",
    "images/shards.py": "packs images into tar files in a folder that is renamed when it is whole",
    "training/trackers.py": "appends to events files, which it can write anew from the history at any time",
    "images/disk_store.py": "the decoded store carries its own digest and is renamed when it is whole",
}
WRITING_METHODS = {"write_text", "write_bytes", "savefig", "tofile", "to_csv", "to_json", "to_parquet", "symlink_to"}
WRITING_FUNCTIONS = {("torch", "save"), ("np", "save"), ("np", "savez"), ("json", "dump"), ("pickle", "dump"),
                     ("shutil", "copy"), ("shutil", "copyfile"), ("shutil", "move"), ("os", "replace"),
                     ("os", "rename")}  # fmt: skip


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(include.ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(include.ROOT).parts[0].removesuffix(".py")


def imports(node: ast.AST) -> Iterator[str]:
    """Modules imported anywhere below the node, as dotted names (`from a import b` gives a.b)."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def top_level(module: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, without blocks for type checkers."""
    for statement in module.body:
        checked_only = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test)
        if not checked_only and not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement


def imported_at_start(path: Path) -> set[str]:
    return {name for statement in top_level(tree(path)) for name in imports(statement)}


def own_module(dotted: str) -> Path | None:
    """The project file behind a dotted name, if it is one of ours."""
    parts = dotted.split(".")
    for length in (len(parts), len(parts) - 1):
        path = include.ROOT.joinpath(*parts[:length]).with_suffix(".py") if length else None
        if path is not None and path.is_file():
            return path
    return None


def everything_imported(path: Path, seen: set[Path] | None = None) -> set[str]:
    """What importing the file imports, through our own modules."""
    seen = set() if seen is None else seen
    seen.add(path)
    names = imported_at_start(path)
    for own in {own_module(name) for name in names} - seen - {None}:
        assert own is not None
        names |= everything_imported(own, seen)
    return names


def test_the_tree_is_seen():
    assert len(SCRIPTS) >= 3
    assert {"config", "images", "model", "training"} <= set(PACKAGES)
    assert len(MODULES) >= 20


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path):
    floor = FLOOR.get(room_of(path), len(ROOMS))
    for name in imports(tree(path)):
        room = name.split(".")[0]
        if room != room_of(path) and room in FLOOR:
            assert FLOOR[room] < floor, f"{name_of(path)} imports {name}"
        assert room not in {script.stem for script in SCRIPTS}, f"{name_of(path)} imports the script {room}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_never_imports_torch(name):
    single = (include.ROOT / name).with_suffix(".py")
    paths = [single] if single.is_file() else sorted((include.ROOT / name).glob("*.py"))
    for path in paths:
        heavy = {
            n for n in everything_imported(path) if n.split(".")[0] in ("torch", "torchvision", "pandas", "sklearn")
        }
        assert not heavy, f"importing {name_of(path)} imports {heavy}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_length(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= (80 if path in SCRIPTS else 400)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_scripts_are_alike(path):
    mains = [n for n in tree(path).body if isinstance(n, ast.FunctionDef) and n.name == "main"]
    assert len(mains) == 1
    assert [a.arg for a in mains[0].args.args] == ["argv"]
    assert len(mains[0].args.defaults) == 1
    assert ast.unparse(mains[0].returns) == "int"
    assert [ast.unparse(d).split(".")[-1] for d in mains[0].decorator_list] == ["reports_errors"]


@pytest.mark.parametrize("room", PACKAGES)
def test_package_files_are_empty(room):
    assert (include.ROOT / room / "__init__.py").read_bytes() == b""


def test_the_loop_is_a_page():
    functions = {n.name: n for n in tree(include.ROOT / "training/loop.py").body if isinstance(n, ast.FunctionDef)}
    lines = sum((functions[name].end_lineno or 0) - functions[name].lineno + 1 for name in ("fit", "train_epoch"))
    assert 20 < lines <= 100


def writes(call: ast.Call) -> bool:
    """Whether a call writes a file by a name (calls with a buffer named `buffer` do not)."""
    function = call.func
    into_memory = any(isinstance(a, ast.Name) and "buffer" in a.id for a in call.args)
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        known = function.attr in WRITING_METHODS or (owner, function.attr) in WRITING_FUNCTIONS
        return (known and not into_memory) or (function.attr == "open" and owner != "os" and mode_writes(call, 0))
    return isinstance(function, ast.Name) and function.id == "open" and mode_writes(call, 1)


def mode_writes(call: ast.Call, position: int) -> bool:
    modes = call.args[position : position + 1] + [k.value for k in call.keywords if k.arg == "mode"]
    return any(isinstance(m, ast.Constant) and isinstance(m.value, str) and set(m.value) & set("wax+") for m in modes)


def test_the_rule_about_writing_sees_writing():
    calls = ["p.write_text('x')", "open(p, 'w')", "p.open('ab')", "torch.save(x, p)", "f.savefig(p)", "json.dump(x, f)"]
    assert all(writes(ast.parse(call, mode="eval").body) for call in calls)
    assert not any(
        writes(ast.parse(call, mode="eval").body) for call in ("open(p)", "torch.save(x, buffer)", "p.open()")
    )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_one_module_writes_files(path):
    if name_of(path) in WRITERS:
        return
    found = [
        f"line {n.lineno}: {ast.unparse(n)[:60]}" for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and writes(n)
    ]
    assert not found, f"{name_of(path)}: {found}; use utils.write_atomic or RunFolder.write"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_unpickles(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node)
            owner = ast.unparse(node.func.value)
            assert not (
                owner in ("pickle", "cPickle", "dill", "joblib") and node.func.attr in ("load", "loads", "Unpickler")
            ), call
            assert not (owner == "torch" and node.func.attr == "load" and "weights_only=True" not in call), call
            assert not (owner == "np" and node.func.attr == "load" and "allow_pickle=True" in call), call
            assert "shell=True" not in call
