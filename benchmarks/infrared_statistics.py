"""Is infrared grey RGB? The same scenes in both, measured: `python benchmarks/infrared_statistics.py --help`.

Each number is of one 8-bit grey image (OpenCV's weights for colour); infrared and visible partner are compared pair by
pair, at equal size, the larger one reduced by area averaging. The yardstick of agreement are red and blue of the
visible image itself, where it has colours. Nothing is trained and nothing is drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Pair = tuple[Grey, Grey]
"""Infrared (h, w); visible (h, w, 3) in OpenCV's order, or (h, w)."""

SIDE = 256  # of the windows whose spectrum is taken: power of two, fits every image here
MEASURES = {
    "mean": "mean grey value, of 255",
    "std": "standard deviation, grey levels",
    "range": "grey levels between the 1st and the 99th percentile",
    "entropy": "entropy of the histogram, bits",
    "noise": "noise sigma, grey levels (Immerkaer 1996)",
    "signal_to_noise": "std / noise",
    "flat": "share of pixels whose gradient is below 2 % of the range",
    "kurtosis": "excess kurtosis of the horizontal derivative (0 = Gaussian; high = few strong edges)",
    "slope": "power spectrum falls as frequency to minus this",
}
AGREEMENT = {
    "correlation": "Pearson correlation of the grey values",
    "edge_correlation": "Pearson correlation of the gradient magnitudes",
    "same_polarity": "of the strongest 5 % of the infrared gradients: share that point the same way in visible light",
}


def measure(grey: Grey) -> dict[str, float]:
    """All of ``MEASURES`` of one image."""
    values = grey.astype(np.float64)
    low, high = np.percentile(values, [1, 99])
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    across, down = derivatives(values)
    noise = noise_sigma(values)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "range": float(high - low),
        "entropy": float(-(share * np.log2(share)).sum()),
        "noise": noise,
        "signal_to_noise": float(values.std() / max(noise, 1e-6)),
        "flat": float((np.hypot(across, down) < 0.02 * max(high - low, 1)).mean()),
        "kurtosis": float(((across - across.mean()) ** 4).mean() / across.var() ** 2 - 3),
        "slope": spectrum_slope(values),
    }


def derivatives(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Central differences across and down, grey levels a pixel, of the inner pixels."""
    return (values[1:-1, 2:] - values[1:-1, :-2]) / 2, (values[2:, 1:-1] - values[:-2, 1:-1]) / 2


def noise_sigma(values: NDArray[np.float64]) -> float:
    """Immerkaer's estimate (Computer Vision and Image Understanding 64(2), 1996); linear ramps do not count."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64)
    inner = cv2.filter2D(values, cv2.CV_64F, kernel)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) * np.abs(inner).mean() / 6)


def power(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power at 1 to SIDE / 2 - 1 cycles a window, averaged over directions and all windows (half overlapping)."""
    hann = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    radius = np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE) * SIDE] * 2))).astype(int).ravel()
    total = np.zeros(radius.max() + 1)
    for top in range(0, values.shape[0] - SIDE + 1, SIDE // 2):
        for left in range(0, values.shape[1] - SIDE + 1, SIDE // 2):
            window = values[top : top + SIDE, left : left + SIDE]
            spectrum = np.abs(np.fft.fft2((window - window.mean()) * hann)) ** 2
            total += np.bincount(radius, spectrum.ravel()) / np.bincount(radius)
    return total[1 : SIDE // 2]


def spectrum_slope(values: NDArray[np.float64]) -> float:
    """Exponent of the falling power between 4 and 64 cycles a window (a line through log and log)."""
    found = power(values)
    cycles = np.arange(4, 65)
    if found[3] == 0:
        return float("nan")  # smaller than a window
    return float(-np.polyfit(np.log(cycles), np.log(found[cycles - 1] + 1e-12), 1)[0])


def agreement(infrared: Grey, visible: Grey) -> dict[str, float]:
    """All of ``AGREEMENT`` of one registered pair; a blur of two pixels first, so that registration matters less."""
    first, second = (cv2.GaussianBlur(grey.astype(np.float64), (0, 0), 2) for grey in (infrared, visible))
    (first_x, first_y), (second_x, second_y) = derivatives(first), derivatives(second)
    first_edges, second_edges = np.hypot(first_x, first_y), np.hypot(second_x, second_y)
    strong = (first_edges >= np.quantile(first_edges, 0.95)) & (second_edges > 0)
    return {
        "correlation": float(np.corrcoef(first.ravel(), second.ravel())[0, 1]),
        "edge_correlation": float(np.corrcoef(first_edges.ravel(), second_edges.ravel())[0, 1]),
        "same_polarity": float(((first_x * second_x + first_y * second_y)[strong] > 0).mean()),
    }


def read(path: Path, *, colour: bool = False) -> NDArray[np.uint8]:
    """An image as grey, or as it is; raises ``SystemExit`` with its name where it cannot be read."""
    how = cv2.IMREAD_ANYCOLOR if colour else cv2.IMREAD_GRAYSCALE
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), how)
    if image is None:
        raise SystemExit(f"{path} cannot be read; give folders of images.")
    return np.asarray(image, np.uint8)


def read_pair(infrared_path: Path, visible_path: Path) -> Pair:
    """Both at the smaller height and width of the two."""
    infrared, visible = read(infrared_path), read(visible_path, colour=True)
    height, width = min(infrared.shape[0], visible.shape[0]), min(infrared.shape[1], visible.shape[1])
    resized = [
        image
        if image.shape[:2] == (height, width)
        else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        for image in (infrared, visible)
    ]
    return np.asarray(resized[0], np.uint8), np.asarray(resized[1], np.uint8)


def pairs_in(infrared: Path, visible: Path) -> Iterator[Pair]:
    """Images of the same stem in two folders."""
    partners = {path.stem: path for path in visible.iterdir()}
    for path in sorted(infrared.iterdir()):
        if path.stem in partners:
            yield read_pair(path, partners[path.stem])


def kaist_pairs(folder: Path) -> Iterator[Pair]:
    """Pairs called ``X_lwir`` and ``X_visible`` in one folder."""
    for path in sorted(folder.glob("*_lwir.*")):
        yield read_pair(path, path.with_name(path.name.replace("_lwir", "_visible")))


def of_one_set(name: str, pairs: Iterator[Pair]) -> dict[str, object]:
    """Per-image numbers of a set, by measure: infrared, visible; the agreement of the pairs, and its yardstick."""
    found: dict[str, list[dict[str, float]]] = {"infrared": [], "visible": [], "agreement": [], "yardstick": []}
    for infrared, visible in pairs:
        grey = visible if visible.ndim == 2 else cv2.cvtColor(visible, cv2.COLOR_BGR2GRAY)
        found["infrared"].append(measure(infrared))
        found["visible"].append(measure(np.asarray(grey, np.uint8)))
        found["agreement"].append(agreement(infrared, np.asarray(grey, np.uint8)))
        if visible.ndim == 3 and not np.array_equal(visible[..., 0], visible[..., 2]):
            found["yardstick"].append(agreement(visible[..., 2], visible[..., 0]))
    if not found["infrared"]:
        raise SystemExit(f"{name}: no pair with equal names was found.")
    table = {kind: {key: [row[key] for row in rows] for key in rows[0]} for kind, rows in found.items() if rows}
    return {"name": name, "pairs": len(found["infrared"]), **table}


def print_set(result: dict) -> None:
    """Medians, and in how many pairs the infrared number is the smaller one."""
    print(f"\n{result['name']}: {result['pairs']} pairs")
    print(f"{'':<18}{'infrared':>10}{'visible':>10}{'infrared smaller':>18}")
    for key in MEASURES:
        infrared, visible = np.array(result["infrared"][key]), np.array(result["visible"][key])
        smaller = f"{int((infrared < visible).sum())} of {len(infrared)}"
        print(f"{key:<18}{np.nanmedian(infrared):>10.3f}{np.nanmedian(visible):>10.3f}{smaller:>18}")
    for key in AGREEMENT:
        low, middle, high = np.percentile(result["agreement"][key], [25, 50, 75])
        told = f"{key:<18}{middle:>10.3f}   (quartiles {low:.3f} to {high:.3f})"
        if "yardstick" in result:
            told += f"   red and blue: {np.median(result['yardstick'][key]):.3f}"
        print(told)


def draw(results: list[dict], file: Path) -> None:
    """Box plots of what differs most, one group a set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {"range": "grey levels used", "noise": "noise, grey levels", "slope": "spectrum slope"}
    figure, grid = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
    axes = grid.ravel()
    for axis, (key, title) in zip(axes, shown.items(), strict=False):
        for index, result in enumerate(results):
            for offset, kind, colour in ((-0.18, "infrared", "#d9480f"), (0.18, "visible", "#1c7ed6")):
                _box(axis, result[kind][key], index + offset, colour)
        axis.set_title(title, fontsize=10)
    for index, result in enumerate(results):
        _box(axes[-1], result["agreement"]["correlation"], index, "#495057")
    axes[-1].axhline(0, color="0.7", linewidth=0.8)
    axes[-1].set_ylim(-1, 1)
    axes[-1].set_title("correlation of the two", fontsize=10)
    for axis in axes:
        axis.set_xticks(range(len(results)), [f"{one['name']}\n{one['pairs']} pairs" for one in results], fontsize=8)
        axis.set_xlim(-0.6, len(results) - 0.4)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", labelsize=8)
    axes[0].plot([], [], color="#d9480f", linewidth=6, label="infrared")
    axes[0].plot([], [], color="#1c7ed6", linewidth=6, label="visible")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(file, dpi=110)


def _box(axis: Any, values: list[float], place: float, colour: str) -> None:
    kept = [value for value in values if np.isfinite(value)]
    box = axis.boxplot(kept, positions=[place], widths=0.3, showfliers=False, patch_artist=True, manage_ticks=False)
    box["boxes"][0].set(facecolor=colour, alpha=0.75, edgecolor="none")
    box["medians"][0].set_color("white")


def main() -> None:
    """Measure, print, and draw on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("MSIP_REALDATA", "../shared/realdata"))
    parser.add_argument("--realdata", type=Path, default=default, help="holds LLVIP and KAIST pairs (MSIP_REALDATA)")
    parser.add_argument("--roadscene", type=Path, help="a checkout of the RoadScene repository")
    parser.add_argument("--json", type=Path, help="write every number of every image here")
    parser.add_argument("--plot", type=Path, help="draw box plots into this file")
    options = parser.parse_args()
    llvip = options.realdata / "msip_sources/LLVIP"
    sets = {
        "LLVIP": pairs_in(llvip / "infrared/train", llvip / "visible/train"),
        "KAIST": kaist_pairs(options.realdata / "kaist_pairs"),
    }
    if options.roadscene:
        sets["RoadScene"] = pairs_in(options.roadscene / "cropinfrared", options.roadscene / "crop_LR_visible")
    print(f"{platform.machine()}, NumPy {np.__version__}, OpenCV {cv2.__version__}; medians over images")
    results = [of_one_set(name, pairs) for name, pairs in sets.items()]
    for result in results:
        print_set(result)
    print("\n" + "\n".join(f"{key}: {text}" for key, text in (MEASURES | AGREEMENT).items()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        draw(results, options.plot)


if __name__ == "__main__":
    main()
