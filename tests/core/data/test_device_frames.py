"""`cache: device`: the views that the device cuts out are those of the other readers."""

import numpy as np
import pytest
import torch

from cmaev.data.device_frames import DeviceFrames
from cmaev.data.errors import DataError
from cmaev.data.held import hold_frames
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.loader import EpochLoader
from cmaev.data.views import FinetuneViews, PretrainViews
from cmaev_spec.data import ClipSpec, FinetuneData, LoadingSpec, PretrainData

CPU = torch.device("cpu")
CLIP = ClipSpec(frames=4, stride=2, size=42)
# Cutting by matrices and by PyTorch's kernels are each within a level of Pillow.
LEVELS = 2


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encode_video) -> VideoIndex:
    """Videos of three shapes, the last one bad."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(48, 64), (64, 48), (120, 90)]):
        picture = rng.integers(0, 256, (height // 2, width // 2 + 12, 3), dtype=np.uint8)
        picture = picture.repeat(2, 0).repeat(2, 1)
        frames = np.stack([picture[:, place : place + width] for place in range(24)])
        (folder / f"{number}.mp4").write_bytes(encode_video(frames))
    (folder / "3.mp4").write_text("this is text")
    (folder / "index.csv").write_text("path,label\n0.mp4,a\n1.mp4,b\n2.mp4,a\n3.mp4,b\n")
    return open_index(folder / "index.csv")


def pretrain(index: VideoIndex, cache: str) -> PretrainViews:
    data = PretrainData(index=index.source, clip=CLIP, hflip=True, cache=cache)
    return PretrainViews(index, data, grid=(2, 5, 5), mask_ratio=0.75, seed=1)


def finetune(index: VideoIndex, cache: str) -> FinetuneViews:
    data = FinetuneData(index=index.source, val_index="", clip=CLIP, num_sample=2, cache=cache)
    return FinetuneViews(index, data, seed=1)


@pytest.mark.parametrize("views", [pretrain, finetune])
@pytest.mark.parametrize(("other", "workers"), [("memory", 0), ("none", 2)])
def test_batches_are_those_of_the_other_readers(index, views, other, workers) -> None:
    """Held frames are scaled down, so only frames that are not can equal those of the disk."""
    batches = []
    for cache in ("device", other):
        dataset = views(index, cache)
        held = dataset.hand_over()
        assert (held is None) == (cache != "device")
        loader = EpochLoader(
            dataset,
            batch_size=2,
            seed=0,
            shuffle=False,
            drop_last=False,
            finish=None if held is None else DeviceFrames(held, CPU, size=CLIP.size).fill,
            loading=LoadingSpec(workers=workers if cache == "device" else 0),
        )
        batches.append([batch for epoch in range(2) for batch in loader.epoch(epoch)])
        assert [video.row for video in loader.quarantine.listed()] == [3]
        loader.close()
    for device, disk in zip(*batches, strict=True):
        assert device.keys() == disk.keys()
        for name, expected in disk.items():
            assert device[name].shape == expected.shape
            assert device[name].dtype == expected.dtype
            if expected.dtype != torch.uint8:
                torch.testing.assert_close(device[name], expected, rtol=0, atol=0)
                continue
            alike = disk["index"] != 2 if other == "none" else disk["index"] >= 0
            apart = (device[name].int() - expected.int()).abs()[alike]
            assert apart.numel() == 0 or apart.max() <= LEVELS


def test_references_and_not_pixels_leave_the_dataset(index: VideoIndex) -> None:
    sample = pretrain(index, "device").sample(1, epoch=0)
    assert sample["online"].shape == (5 + CLIP.frames,)
    assert sample["online"][0] == 1
    np.testing.assert_array_equal(sample["online"][:5], sample["target"][:5])


def test_a_set_too_large_for_the_device_is_refused(index: VideoIndex) -> None:
    held = hold_frames(index, size=CLIP.size, loading=LoadingSpec())
    needed = held.memory.array.nbytes
    with pytest.raises(DataError, match=r"data.cache: the frames need .* free on cpu; set it to"):
        DeviceFrames(held, CPU, size=CLIP.size, free=2 * needed - 1)
    DeviceFrames(held, CPU, size=CLIP.size, free=2 * needed)
