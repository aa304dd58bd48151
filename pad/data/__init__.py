"""Images of a build or of shards to normalised tensors: index, samples, epochs, workers, views."""

from __future__ import annotations

from pad.data.dataset import PretrainDataset, SampleKey
from pad.data.grey import INFRARED_MEAN, INFRARED_STD, denormalise, normalise, to_device
from pad.data.index import ImageIndex, open_data, write_index
from pad.data.loader import EpochSampler, epoch_order, make_loader, start_reading
from pad.data.views import InputSampler, MultiCrop

__all__ = [
    "INFRARED_MEAN",
    "INFRARED_STD",
    "EpochSampler",
    "ImageIndex",
    "InputSampler",
    "MultiCrop",
    "PretrainDataset",
    "SampleKey",
    "denormalise",
    "epoch_order",
    "make_loader",
    "normalise",
    "open_data",
    "start_reading",
    "to_device",
    "write_index",
]
