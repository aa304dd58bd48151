"""Probes: what frozen features tell without any fine-tuning, by nearest neighbours and by a linear classifier.

An image's features are computed once and used by both. Of a classification set they are its mean patch token; of a
segmentation set they are its patch tokens, and what is predicted for patches is enlarged to the image and scored by
pixel, so that the numbers compare with those of a segmentation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msip.resize import resize
from pad.data.grey import normalise
from pad.encoders.tokens import grid_size, in_chans
from pad.evaluation.sets.base import IGNORED, Grey, ProbeData, ProbeItem, SegmentationData, SegmentationItem
from pad.evaluation.sets.probe import LABELS, read_probe
from pad.evaluation.sets.segmentation import has_masks, read_segmentation
from pad.evaluation.tasks.base import Contestant, Outcome, Task
from pad.evaluation.tasks.encoder import prepare_encoder
from pad.evaluation.tasks.evidence import Areas, Evidence, Hits
from pad.evaluation.tasks.fitting import Cost, Recipe

NEIGHBOURS = 20
TEMPERATURE = 0.07
"""Of the neighbours' votes, exp(cosine / 0.07): DINO's k-NN evaluation (arXiv 2104.14294)."""
MAX_PATCHES = 50_000
"""Training patches that are kept, drawn by the seed; more make the neighbours slow and change little."""
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Tried for the linear classifier on a fifth of the training samples, held out; the best is then used on all."""
LBFGS_STEPS = 100
BATCH = 64
CHUNK = 4096

Found = tuple[dict[str, Evidence], Cost]


class Probe(Task):
    """What frozen features tell, by nearest neighbours and by a linear classifier."""

    kind = "probe"
    # only the size counts; the rest stands in the keys of cells
    upstream = Recipe(
        image_size=224,
        batch_size=8,
        epochs=100,
        lr=1e-4,
        weight_decay=0.05,
        layer_decay=0.65,
        drop_path=0.1,
        warmup_steps=1500,
        schedule="poly",
    )
    modes = ("frozen",)
    evidence = (Hits, Areas)
    draws = False

    def read(self) -> ProbeData | SegmentationData:
        """Return images and classes where there are some, else images and masks."""
        of_classes = (self.data / LABELS).is_file() or not has_masks(self.data)
        return read_probe(self.data) if of_classes else read_segmentation(self.data)

    def run(
        self,
        data: Any,
        train: Sequence[Any],
        contestant: Contestant,
        *,
        seed: int,
        device: torch.device,
        threads: int,
        label: str,
    ) -> Outcome:
        """Return evidence of ``knn`` and ``linear``; nothing of the encoder trains."""
        del threads, label
        probe: Any = probe_images if data.test and hasattr(data.test[0], "label") else probe_patches
        size = self.options.image_size
        return Outcome(*probe(data, train, contestant.weights, image_size=size, seed=seed, device=device))


def probe_images(
    data: ProbeData, train: Sequence[ProbeItem], weights: str, *, image_size: int, seed: int, device: torch.device
) -> Found:
    """Evidence of ``knn`` and ``linear`` on the test images of a classification set, and what it cost."""
    begin = time.perf_counter()
    encoder, count = _frozen(weights, image_size, seed, device), len(data.classes)
    known, asked = (patch_tokens(encoder, [i.image for i in items]).mean(1) for items in (train, data.test))
    targets = F.one_hot(torch.tensor([item.label for item in train]), count).float()
    labels = np.array([item.label for item in data.test], np.int64)
    votes = predict_both(known, targets, asked, seed=seed)
    found: dict[str, Evidence] = {
        name: Hits(data.classes, labels, vote.argmax(1).numpy() == labels) for name, vote in votes.items()
    }
    return found, _cost(known, count, begin)


def probe_patches(
    data: SegmentationData,
    train: Sequence[SegmentationItem],
    weights: str,
    *,
    image_size: int,
    seed: int,
    device: torch.device,
) -> Found:
    """Evidence of ``knn`` and ``linear`` on the patches of a segmentation set's test images, and what it cost."""
    begin = time.perf_counter()
    encoder, count = _frozen(weights, image_size, seed, device), len(data.classes)
    grid = grid_size(encoder)
    known = patch_tokens(encoder, [item.image for item in train]).flatten(0, 1)
    targets = torch.cat([patch_shares(item.mask, grid, count) for item in train])
    counted = torch.nonzero(targets.sum(1) > 0)[:, 0]
    generator = torch.Generator().manual_seed(seed)
    kept = counted[torch.randperm(len(counted), generator=generator)[:MAX_PATCHES]]
    asked = patch_tokens(encoder, [item.image for item in data.test])
    votes = predict_both(known[kept], targets[kept], asked.flatten(0, 1), seed=seed)
    masks = [torch.from_numpy(item.mask) for item in data.test]
    found: dict[str, Evidence] = {}
    for name, vote in votes.items():
        maps = vote.view(len(data.test), *grid, count).permute(0, 3, 1, 2)
        guesses = [
            F.interpolate(one[None], size=mask.shape, mode="bilinear", align_corners=False)[0].argmax(0)
            for one, mask in zip(maps, masks, strict=True)
        ]
        found[name] = Areas.of(guesses, masks, data.classes)
    return found, _cost(known, count, begin)


def _frozen(weights: str, image_size: int, seed: int, device: torch.device) -> nn.Module:
    encoder = prepare_encoder(weights, "frozen", image_size=image_size, drop_path=0.0, seed=seed)
    return encoder.eval().to(device)


def _cost(features: Tensor, count: int, begin: float) -> Cost:
    return Cost((features.shape[-1] + 1) * count, 0, round(time.perf_counter() - begin, 2))


@torch.inference_mode()
def patch_tokens(encoder: Any, images: Sequence[Grey]) -> Tensor:
    """Patch tokens after the final norm, (images, patches, D) float32 on the CPU; images are squashed to the input."""
    height, width = encoder.patch_embed.img_size
    device, channels = next(encoder.parameters()).device, in_chans(encoder)
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = np.stack([resize(image, (width, height)) for image in images[start : start + BATCH]])
        batch = normalise(torch.from_numpy(pixels)[:, None].to(device), channels)
        parts.append(encoder.forward_features(batch)[:, encoder.num_prefix_tokens :].float().cpu())
    return torch.cat(parts)


def patch_shares(mask: Grey, grid: tuple[int, int], count: int) -> Tensor:
    """Share of each class in each patch, (patches, classes); zeros for a patch without a counted pixel."""
    counted = torch.from_numpy(mask.astype(np.int64))
    planes = F.one_hot(counted.clamp(max=count), count + 1)[..., :count].permute(2, 0, 1).float()
    planes *= counted != IGNORED
    shares = F.adaptive_avg_pool2d(planes, grid).flatten(1).T
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-12)


def predict_both(known: Tensor, targets: Tensor, asked: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Class votes (asked, classes) of both probes, from features (n, D) and class shares (n, classes)."""
    return {"knn": nearest(known, targets, asked), "linear": linear(known, targets, asked, seed=seed)}


def nearest(known: Tensor, targets: Tensor, asked: Tensor) -> Tensor:
    """Weighted votes of the 20 nearest neighbours by cosine."""
    known, asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
    votes = []
    for part in asked.split(CHUNK):
        similarity, place = (part @ known.T).topk(min(NEIGHBOURS, len(known)), dim=1)
        votes.append(torch.einsum("qk,qkc->qc", (similarity / TEMPERATURE).softmax(1), targets[place]))
    return torch.cat(votes)


def linear(known: Tensor, targets: Tensor, asked: Tensor, *, seed: int) -> Tensor:
    """Probabilities of multinomial logistic regression on standardised features."""
    mean, std = known.mean(0), known.std(0).clamp(min=1e-6)
    known, asked = (known - mean) / std, (asked - mean) / std
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    held, rest = order[: len(known) // 5], order[len(known) // 5 :]
    best = WEIGHT_DECAYS[0]
    if len(held):
        losses = [
            _loss(_fitted(known[rest], targets[rest], decay), known[held], targets[held]) for decay in WEIGHT_DECAYS
        ]
        best = WEIGHT_DECAYS[int(np.argmin(losses))]
    with torch.no_grad():
        probabilities: Tensor = _fitted(known, targets, best)(asked).softmax(1)
    return probabilities


def _fitted(features: Tensor, targets: Tensor, decay: float) -> nn.Linear:
    layer = nn.Linear(features.shape[1], targets.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(features), targets) + decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer


def _loss(layer: nn.Linear, features: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(layer(features), targets))
