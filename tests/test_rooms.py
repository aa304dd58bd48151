"""Data flows one way: who may import whom, by the imports that stand in the code, those inside functions included."""

import ast
import importlib
import warnings
from pathlib import Path

import pytest

from msip.moved import MOVED as MOVED_IN_MSIP
from pad.moved import MOVED as MOVED_IN_PAD

ROOT = Path(__file__).resolve().parents[1]
MOVED = MOVED_IN_MSIP | MOVED_IN_PAD

PUBLIC = {"__init__", "moved"}  # the front: names and old paths, found lazily
ROOMS = {
    "machine": (),
    "config": ("machine",),
    "weights": ("machine",),
    "data": ("machine",),
    "adapters": ("weights",),
    "encoders": ("adapters", "weights", "data", "config", "machine"),
    "methods": ("encoders", "adapters", "data", "weights", "machine"),
    "inference": ("encoders", "adapters", "data", "weights", "config", "machine"),
    "monitoring": ("config", "data", "adapters", "machine"),
    "training": ("monitoring", "methods", "encoders", "adapters", "data", "weights", "config", "machine"),
    "evaluation/sets": ("config", "data", "machine"),
    "evaluation/tasks": (
        "evaluation/sets",
        "inference",
        "encoders",
        "adapters",
        "weights",
        "data",
        "config",
        "machine",
    ),
    "evaluation/comparison": (
        *("evaluation/tasks", "evaluation/sets", "inference", "encoders", "adapters", "weights", "data", "config"),
        *("machine", "training"),
    ),
    "evaluation": (
        *("evaluation/comparison", "evaluation/tasks", "evaluation/sets", "inference", "encoders", "adapters"),
        *("weights", "data", "config", "machine"),
    ),
    "demonstration": ("training", "inference", "data", "config", "machine"),
    "diagnosis": ("machine", "config"),
}
"""Each room of pad, and the rooms it may import besides msip; a room may import itself."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path) -> list[tuple[int, str]]:
    """(line, module) of every absolute import; ``from pad import config`` counts as ``pad.config``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            whole = node.module in ("pad", "msip", "pad.evaluation")
            names = [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
            found += [(node.lineno, name) for name in names]
    return found


def room_of(module: str) -> str:
    """The room of ``pad.x.y``: the longest name in ``ROOMS`` that it begins with, else its first part."""
    path = module.removeprefix("pad.").replace(".", "/")
    within = [room for room in ROOMS if path == room or path.startswith(room + "/")]
    return max(within, key=len) if within else path.split("/")[0]


def violations(file: Path, name: str) -> list[str]:
    """What ``file``, imported as ``name``, imports though its room may not."""
    room = room_of(name)
    allowed = {room, *ROOMS[room]}
    targets = [(line, target) for line, target in imports(file) if target.startswith("pad.")]
    return [f"{name}:{line} imports {target}" for line, target in targets if room_of(target) not in allowed]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("room", [*ROOMS])
def test_a_room_of_pad_imports_only_rooms_above_it(room):
    files = [file for file in modules("pad") if file.stem not in PUBLIC or file.parent.name != "pad"]
    wrong = [odd for file in files if room_of(name_of(file)) == room for odd in violations(file, name_of(file))]
    assert wrong == []


def test_every_module_of_pad_stands_in_a_room():
    files = [name_of(file) for file in modules("pad") if file.parent.name != "pad" or file.stem not in PUBLIC]
    assert [name for name in files if room_of(name) not in ROOMS] == []


def test_the_rule_notices_an_import_that_runs_back_up(tmp_path):
    back = tmp_path / "odd.py"
    back.write_text("def late():\n    from pad.training.trainer import Trainer\n    return Trainer\n")
    assert violations(back, "pad.methods.odd") == ["pad.methods.odd:2 imports pad.training.trainer"]
    assert violations(back, "pad.training.odd") == []


def test_a_comparison_trains_only_through_the_front_of_training():
    files = [file for file in modules("pad") if room_of(name_of(file)) == "evaluation/comparison"]
    used = {target for file in files for _, target in imports(file) if target.startswith("pad.training")}
    assert used == {"pad.training.pretrain"}


def test_the_rooms_make_no_circle():
    seen: dict[str, set[str]] = {}

    def below(room: str, path: tuple[str, ...] = ()) -> set[str]:
        assert room not in path, f"{room} imports itself through {path}"
        if room not in seen:
            seen[room] = {room}.union(*(below(other, (*path, room)) for other in ROOMS[room]))
        return seen[room]

    for room in ROOMS:
        below(room)


def test_msip_never_imports_pad_and_fiftyone_stands_in_inspection_alone():
    for file in modules("msip"):
        names = [target.split(".")[0] for _, target in imports(file)]
        assert "pad" not in names, file
        assert "fiftyone" not in names or "inspection" in file.parts, file
    for file in [*modules("pad"), *modules("cli")]:
        assert "fiftyone" not in [target.split(".")[0] for _, target in imports(file)], file


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_still_imports_and_names_the_new_one(old):
    module = importlib.import_module(old)
    home = importlib.import_module(MOVED[old][0])
    name = next(n for n, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__)
    with pytest.warns(DeprecationWarning, match=rf"{MOVED[old][0]}\.{name}"):
        assert getattr(module, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018  the access is what is tested


def test_paths_that_are_promised_import_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for module, name in [
            ("pad.adapters", "PadConfig"),
            ("pad.config", "PretrainConfig"),
            ("pad.data", "ImageIndex"),
        ]:
            assert hasattr(importlib.import_module(module), name)
