"""What the library says of its parameters, and logs, as the command line prints it."""

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from msip_cli.main import COMMANDS

import msip
from msip.engine import EngineName
from msip.export.chunks import CropFormat
from msip.export.recipe import Mode
from msip.proposals import PROPOSALS
from msip.radiometry import AgcMethod
from msip.shards import ShardLayout

ROOT = Path(__file__).resolve().parents[2]
ONLY_HERE = {"as_json", "no_rois", "no_launch", "remote", "address", "port", "pull_tags"}


def sentence(*arguments):
    command = [sys.executable, "-m", "msip_cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("build --out OUT", "give --raw for a corpus, or --folder for your own frames"),
        ("build --out OUT --folder . --source llvip", "--folder does not go with --source:"),
        ("build --out OUT --folder . --agc window", "--agc window needs --agc-window:"),
        ("build --out OUT --folder nowhere", "that holds your frames as --folder."),
        ("curate nowhere --similarity 2", "--similarity is 2, expected 0.5 to 1."),
        ("curate nowhere --max-similar 0.9", "--max-similar and --keep-fraction make a subset; name it with --subset"),
        ("curate nowhere", "give the folder of a build (`msip build`)."),
        ("export-crops nowhere --to OUT --mode training --padding 2", "are for proposals (--mode rois)"),
    ],
)
def test_parameters_are_said_as_options(command, words, tmp_path):
    assert words in sentence(*command.replace("OUT", str(tmp_path / "out")).split())


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("build", "agc", get_args(AgcMethod)),
        ("build", "engine", get_args(EngineName)),
        ("rois", "proposals", tuple(PROPOSALS)),
        ("shard", "layout", get_args(ShardLayout)),
        ("export_crops", "fmt", get_args(CropFormat)),
        ("export_crops", "mode", get_args(Mode)),
    ],
)
def test_the_choices_are_the_librarys(command, option, choices):
    """The command line spells them out: the library's modules take seconds to import."""
    callback = next(one for one in COMMANDS if one.__name__ == command)
    annotation = inspect.signature(callback, eval_str=True).parameters[option].annotation
    assert get_args(get_args(annotation)[0]) == choices


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("sources", "list_sources"),
        ("download", "fetch"),
        ("build", "build"),
        ("verify", "verify_build"),
        ("rois", "propose_rois"),
        ("curate", "curate"),
        ("inspect", "inspect"),
        ("stats", "stats"),
        ("shard", "shard"),
        ("export_crops", "export_crops"),
    ],
)
def test_a_command_is_one_function_whose_parameters_have_the_same_names(command, function):
    callback = next(one for one in COMMANDS if one.__name__ == command)
    ours = inspect.signature(callback).parameters.keys() - {
        "as_json",
        "no_rois",
        "no_launch",
        "remote",
        "address",
        "port",
        "pull_tags",
    }
    theirs = inspect.signature(getattr(msip, function)).parameters
    assert ours <= theirs.keys()
    described = re.findall(r"^ +([\w, ]+): ", getattr(msip, function).__doc__, re.MULTILINE)
    assert {name for names in described for name in names.split(", ")} >= theirs.keys()


def test_the_log_is_printed_in_plain_lines_and_warnings(capsys):
    from msip_cli.output import show_log

    show_log()
    show_log()
    logging.getLogger("msip.pipeline").info("the plan: %d sources", 8)
    logging.getLogger("pad.training").warning("the loss rises")
    logging.getLogger("pad").debug("nobody asked")
    assert capsys.readouterr().err == "the plan: 8 sources\nwarning: the loss rises\n"
