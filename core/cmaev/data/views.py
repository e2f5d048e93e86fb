"""Samples of each kind of job, as uint8 arrays: what the model sees, before normalisation.

A sample depends on (seed, epoch, index) alone. Each video is decoded once for all of its views,
and each of its frames is cropped and resized once.

Shapes: T frames, S pixels square, N tokens, V views of a test, R of training, U distinct
frames.
"""

import numpy as np
from numpy.typing import NDArray

from cmaev.data.color import draw_color
from cmaev.data.erasing import draw_erase_box
from cmaev.data.held import HeldFrames, Progress
from cmaev.data.index import VideoIndex
from cmaev.data.mirror import refuse_mirrored_labels
from cmaev.data.rand_augment import draw_rand_augment
from cmaev.data.reader import Clip, DiskReader, HeldClip, open_reader
from cmaev.data.samples import Sample
from cmaev.data.sampling import eval_clips, pretrain_pair, train_clip
from cmaev.data.transforms import (
    Box,
    hull,
    multi_scale_box,
    random_resized_box,
    resize_short_side,
    spatial_crops,
)
from cmaev.masking import tube_mask
from cmaev_spec.data import ClipSpec, FinetuneData, PretrainData


class PretrainViews:
    """Pairs of views: `online`, `target` (T, S, S, 3), `mask` (N,) True = hidden, `index` ().

    The target is shifted in time, the crop is shared. Where the data asks for them, `flip` () of
    both and `color` (10,) of the target are drawn here and done on the device, to whole batches.
    """

    def __init__(
        self,
        index: VideoIndex,
        data: PretrainData,
        *,
        grid: tuple[int, int, int],
        mask_ratio: float,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        """Opens the videos.

        Args:
            index: the videos.
            data: how clips are taken and augmented.
            grid: tokens along (t, h, w), which the mask is drawn on.
            mask_ratio: share of tubes to hide.
            seed: decides everything that is random.
            progress: called with (videos done, videos in all) while a cache is filled.

        Raises:
            DataError: for `hflip` where a mirror changes labels.
        """
        if data.hflip:
            refuse_mirrored_labels(index.label_names)
        self._data, self._grid, self._mask_ratio, self._seed = data, grid, mask_ratio, seed
        self._count = len(index)
        self._reader, self._held = open_reader(index, data=data, progress=progress)

    def __len__(self) -> int:
        return self._count

    def hand_over(self) -> HeldFrames | None:
        """The frames for a device to hold, to keep from now on, where `cache` is `device`."""
        held, self._held = self._held, None
        return held

    def sample(self, index: int, *, epoch: int) -> Sample:
        """See `ViewDataset.sample`."""
        rng = np.random.default_rng([self._seed, epoch, index])
        data, T, S = self._data, self._data.clip.frames, self._data.clip.size
        clip = self._reader.read(
            index,
            lambda n: np.concatenate(pretrain_pair(n, data.clip, shift=data.shift, rng=rng)),
            lambda w, h: multi_scale_box(w, h, scales=data.crop_scales, rng=rng),
        )
        frames = clip.crop(size=S)
        sample: Sample = {
            "online": frames[:T],  # (T, S, S, 3)
            "target": frames[T:],  # (T, S, S, 3)
            "index": np.asarray(index, dtype=np.int64),
        }
        if data.hflip:
            sample["flip"] = np.asarray(rng.random() < 0.5)
        if data.color_augment:
            sample["color"] = draw_color(rng).pack()
        return sample | {"mask": tube_mask(self._grid, self._mask_ratio, rng)}


class FinetuneViews:
    """Random views of one decode: `video` (R, T, S, S, 3), `label` (), `index` (); R = num_sample.

    What the data asks for besides is drawn here and done on the device, to whole batches: `flip`
    (R,), `rand_augment` (R, N, 2), `erase` (R, 4).
    """

    def __init__(
        self,
        index: VideoIndex,
        data: FinetuneData,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        """Opens the videos.

        Raises:
            DataError: for a row without a label, or `hflip` where a mirror changes labels.
        """
        index.require_labels()
        if data.hflip:
            refuse_mirrored_labels(index.label_names)
        self._data, self._seed, self._labels = data, seed, index.labels
        self._reader, self._held = open_reader(index, data=data, progress=progress)

    def __len__(self) -> int:
        return len(self._labels)

    def hand_over(self) -> HeldFrames | None:
        """The frames for a device to hold, to keep from now on, where `cache` is `device`."""
        held, self._held = self._held, None
        return held

    def sample(self, index: int, *, epoch: int) -> Sample:
        """See `ViewDataset.sample`."""
        rng = np.random.default_rng([self._seed, epoch, index])
        data = self._data
        boxes: list[Box] = []

        def look(width: int, height: int) -> Box:
            for _ in range(data.num_sample):
                boxes.append(random_resized_box(width, height, area=data.crop_area, rng=rng))
            return hull(boxes)

        clip = self._reader.read(index, lambda n: train_clip(n, data.clip, rng=rng), look)
        left, top, _, _ = hull(boxes)
        views = [
            self._view(clip, box._replace(left=box.left - left, top=box.top - top), rng)
            for box in boxes
        ]
        return {
            **{name: np.stack([view[name] for view in views]) for name in views[0]},
            "label": np.asarray(self._labels[index]),
            "index": np.asarray(index, dtype=np.int64),
        }

    def _view(self, clip: Clip | HeldClip, box: Box, rng: np.random.Generator) -> Sample:
        data, size = self._data, self._data.clip.size
        view: Sample = {"video": clip.crop(box=box, size=size)[:]}  # (T, S, S, 3)
        if data.hflip:
            view["flip"] = np.asarray(rng.random() < 0.5)
        augment = data.augment
        if augment.rand_augment is not None:
            view["rand_augment"] = draw_rand_augment(augment.rand_augment, rng)
        if augment.erase_probability:
            erased = draw_erase_box(size, probability=augment.erase_probability, rng=rng)
            view["erase"] = np.asarray(erased)
        return view


class EvaluateViews:
    """All views of a video: `video` (V, T, S, S, 3), `label` (), `index` (); nothing is random.

    V = num_clips * num_crops, the crops of one clip next to each other.
    """

    def __init__(
        self, index: VideoIndex, *, clip: ClipSpec, num_clips: int, num_crops: int
    ) -> None:
        """Opens the videos; every row of the index must have a label."""
        index.require_labels()
        self._clip, self._num_clips, self._num_crops = clip, num_clips, num_crops
        self._labels = index.labels
        self._reader = DiskReader(index)

    def __len__(self) -> int:
        return len(self._labels)

    def sample(self, index: int, *, epoch: int = 0) -> Sample:
        """See `ViewDataset.sample`; `epoch` changes nothing."""
        views = evaluation_views(
            self._reader,
            index,
            clip=self._clip,
            num_clips=self._num_clips,
            num_crops=self._num_crops,
        )
        return {
            "video": views,  # (V, T, S, S, 3)
            "label": np.asarray(self._labels[index]),
            "index": np.asarray(index, dtype=np.int64),
        }


def evaluation_views(
    reader: DiskReader, row: int, *, clip: ClipSpec, num_clips: int, num_crops: int
) -> NDArray[np.uint8]:
    """All views of the video at `row`: (num_clips * num_crops, T, S, S, 3).

    Raises:
        BadVideoError: if it cannot be read.
    """
    K, T, S = num_clips, clip.frames, clip.size
    decoded = reader.read(row, lambda n: eval_clips(n, clip, num_clips=K).reshape(-1))
    frames = resize_short_side(decoded.frames, S)  # (U, H, W, 3)
    crops = spatial_crops(frames, S, num_crops)  # (crops, U, S, S, 3)
    views = crops[:, decoded.places.reshape(K, T)].swapaxes(0, 1)  # (K, crops, T, S, S, 3)
    return views.reshape(-1, T, S, S, 3)  # (V, T, S, S, 3)
