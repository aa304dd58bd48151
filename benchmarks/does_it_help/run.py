"""The experiment of docs/results.md: data, pre-trainings and every cell; can be stopped and run again.

    python benchmarks/does_it_help/run.py --work DIR --hit-uav GIT --buffalo GIT --sirst GIT --msrs GIT \\
        --tiny-imagenet GIT --realdata DIR

Results go to docs/results/, pre-trainings to WORK/runs. Cells that are there are never computed again, so that another
day continues where one stopped, on another machine too (pre-trainings that missing cells need are run again there,
unless WORK/runs is brought along). ``--task``, ``--contestant`` and ``--seed`` run a part. ``--quick`` runs the same
at toy size (64 px, three steps), into WORK/quick, to see that everything fits.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import yaml
from prepare import Places, prepare

from msip.errors import MsipError
from pad.evaluation.comparison.file import Comparison
from pad.evaluation.comparison.run import Comparing
from pad.evaluation.comparison.tables import run_and_report

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "docs" / "results"


def quick(file: Path, to: Path) -> Path:
    """The comparison with the same contestants and tasks at toy size."""
    content = yaml.safe_load(file.read_text())
    content["seeds"] = [0]
    content["pretrain"] |= {"image_size": 64, "max_steps": 3, "batch_size": 8, "decoder_embed_dim": 32}
    content["pretrain"] |= {"decoder_depth": 1, "workers": 0}
    for task in content["tasks"].values():
        task |= {"image_size": 64, "seeds": [0]}
        if task["task"] != "probe":
            task |= {"steps": 2, "batch_size": 2}
    to.write_text(yaml.safe_dump(content, sort_keys=False))
    return to


def main() -> None:
    """Prepare, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and pre-trainings, about 3 GB")
    for name in ("hit-uav", "buffalo", "sirst", "msrs", "tiny-imagenet"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="clone, or bare git folder")
    parser.add_argument("--realdata", type=Path, required=True, help="folder of real infrared images")
    parser.add_argument("--per-class", type=int, default=200, help="RGB images of each of Tiny-ImageNet's 200 classes")
    parser.add_argument("--task", action="append", default=[], help="only this task (may be repeated)")
    parser.add_argument("--contestant", action="append", default=[], help="only this contestant (may be repeated)")
    parser.add_argument("--seed", action="append", default=[], type=int, help="only this seed (may be repeated)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="toy size, into WORK/quick")
    given = parser.parse_args()
    names = ("hit_uav", "buffalo", "sirst", "msrs", "tiny_imagenet", "realdata", "work")
    prepare(Places(**{name: getattr(given, name) for name in names}), given.per_class)
    with tempfile.TemporaryDirectory() as folder:
        file = quick(HERE / "compare.yaml", Path(folder) / "quick.yaml") if given.quick else HERE / "compare.yaml"
        comparison = Comparison.read(file)
    out = given.work / "quick" if given.quick else RESULTS
    runs = out / "runs" if given.quick else given.work / "runs"
    work = Comparing(comparison, given.work, out, runs=runs, device=given.device)
    run_and_report(work, only=tuple(given.task), contestants=tuple(given.contestant), seeds=tuple(given.seed))


if __name__ == "__main__":
    try:
        main()
    except MsipError as error:
        raise SystemExit(f"error: {error}") from None
