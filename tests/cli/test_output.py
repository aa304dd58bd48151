"""What the library says of its parameters, and logs, as the command line prints it."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def sentence(*arguments):
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
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


def test_the_log_is_printed_in_plain_lines_and_warnings(capsys):
    from cli.output import show_log

    show_log()
    show_log()
    logging.getLogger("msip.pipeline").info("the plan: %d sources", 8)
    logging.getLogger("pad.training").warning("the loss rises")
    logging.getLogger("pad").debug("nobody asked")
    assert capsys.readouterr().err == "the plan: 8 sources\nwarning: the loss rises\n"
