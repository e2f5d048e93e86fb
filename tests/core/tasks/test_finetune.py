"""The finetuning step: what the model sees, and the loss of mixed clips against timm's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from cmaev.data.device import flip_clips
from cmaev.data.mixup import draw_mixing, mix
from cmaev.data.quarantine import Quarantine
from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.loop import Trainer
from cmaev.engine.signals import StopRequest
from cmaev.models import create_model
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.base import to_device
from cmaev.tasks.finetune import FinetuneTask
from cmaev.tasks.weights import class_weights
from cmaev_spec.data import AugmentSpec
from cmaev_spec.optim import FinetuneOptimSpec
from cmaev_spec.resources import RunControlSpec
from cmaev_spec.rundir import RunDir

CLASSES = 5


class Recorder(nn.Module):
    """Keeps its input and answers with fixed logits."""

    def __init__(self, clips: int) -> None:
        super().__init__()
        self.logits = torch.randn(clips, CLASSES, generator=torch.Generator().manual_seed(0))

    def forward(self, video: Tensor) -> Tensor:
        self.video = video
        return self.logits


def task(**augment: float) -> FinetuneTask:
    return FinetuneTask(
        create_model("cmaev_vit_nano_patch8_32", num_classes=CLASSES),
        label_smoothing=0.1,
        layer_decay=0.9,
        augment=AugmentSpec(**augment),
    )


@pytest.fixture
def batch() -> dict[str, Tensor]:
    video = torch.randint(0, 256, (2, 2, 8, 32, 32, 3), dtype=torch.uint8)
    return {"video": video, "label": torch.tensor([1, 4])}


def test_each_view_of_a_video_has_its_label(batch: dict[str, Tensor]) -> None:
    model = Recorder(4)
    result = task().step(model, batch)
    assert torch.equal(model.video, FrameNormaliser()(batch["video"].flatten(0, 1)))
    expected = nn.functional.cross_entropy(
        model.logits, torch.tensor([1, 1, 4, 4]), label_smoothing=0.1
    )
    torch.testing.assert_close(result["loss"], expected)


def test_balanced_classes_weigh_the_same_whatever_their_numbers(batch: dict[str, Tensor]) -> None:
    labels = torch.tensor([1, 1, 1, 4])
    weight = class_weights(labels, num_classes=CLASSES, balanced=True)
    balanced = FinetuneTask(
        create_model("cmaev_vit_nano_patch8_32", num_classes=CLASSES),
        label_smoothing=0.0,
        layer_decay=0.9,
        augment=AugmentSpec(),
        class_weight=weight,
    )
    clips = {"video": batch["video"][:1].repeat(4, 1, 1, 1, 1, 1), "label": labels}
    model = Recorder(8)
    result = balanced.step(model, clips)
    losses = nn.functional.cross_entropy(
        model.logits, labels.repeat_interleave(2), reduction="none"
    )  # (8,)
    torch.testing.assert_close(result["loss"], (losses[:6].mean() + losses[6:].mean()) / 2)


@pytest.mark.parametrize("augment", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_the_loss_is_that_of_the_mixed_and_smoothed_target(
    batch: dict[str, Tensor], augment: dict[str, float]
) -> None:
    model, finetuning = Recorder(4), task(**augment)
    for seed in range(5):
        torch.manual_seed(seed)
        result = finetuning.step(model, batch)
        torch.manual_seed(seed)
        mixing = draw_mixing(**{"mixup": 0, "cutmix": 0, **augment}, height=32, width=32)
        target = mixup_target(torch.tensor([1, 1, 4, 4]), CLASSES, lam=mixing.share, smoothing=0.1)
        torch.testing.assert_close(result["loss"], SoftTargetCrossEntropy()(model.logits, target))
        plain = FrameNormaliser()(batch["video"].flatten(0, 1))
        torch.testing.assert_close(model.video, mix(plain, mixing))


def test_drawn_changes_are_done(batch: dict[str, Tensor]) -> None:
    model = Recorder(4)
    draws = torch.full((2, 2, 4, 2), -1.0)
    draws[1, 0, 0, 0] = 2  # invert
    flip = torch.tensor([[True, False], [False, False]])
    box = torch.zeros(2, 2, 4, dtype=torch.int64)
    box[1, 1] = torch.tensor([4, 4, 8, 8])
    task().step(model, {**batch, "rand_augment": draws, "flip": flip, "erase": box})
    frames = batch["video"].flatten(0, 1).clone()
    frames[2] = 255 - frames[2]
    expected = FrameNormaliser()(flip_clips(frames, flip.flatten()))
    assert torch.equal(model.video[:3], expected[:3])
    same = model.video[3] == expected[3]
    assert not same[:, :, 4:12, 4:12].any()
    same[:, :, 4:12, 4:12] = True
    assert same.all()


def test_draws_that_steer_the_host_stay_there(batch: dict[str, Tensor]) -> None:
    draws = torch.zeros(2, 2, 4, 2)
    moved = to_device({**batch, "rand_augment": draws}, torch.device("meta"))
    assert moved["video"].device.type == "meta"
    assert moved["rand_augment"] is draws


class Batches:
    """The same three batches in each epoch; asks for a stop at the second of them, if told to."""

    def __init__(self, stop: StopRequest | None) -> None:
        self.stop = stop
        self.quarantine = Quarantine(videos=6)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        for position in range(start // 2, 3):
            generator = torch.Generator().manual_seed(position)
            video = torch.randint(0, 256, (2, 1, 8, 32, 32, 3), generator=generator)
            if self.stop is not None and position == 1:
                self.stop.requested = True
            yield {
                "video": video.to(torch.uint8),
                "label": torch.tensor([position, 4]),
                "erase": torch.tensor([[[2, 3, 9, 9]], [[0, 0, 0, 0]]]),
            }


def trained(path: Path, *, interrupted: bool) -> dict[str, Tensor]:
    path.mkdir()
    run = RunDir(path)
    for stops in (True, False) if interrupted else (False,):
        stop = StopRequest()
        torch.manual_seed(0)
        finetuning = task(mixup=0.8, cutmix=1.0)
        status = Trainer(
            finetuning,
            Batches(stop if stops else None),
            optim=FinetuneOptimSpec(base_lr=0.1, batch_size=2, epochs=2),
            control=RunControlSpec(),
            steps_per_epoch=3,
            run=run,
            spec_hash="0",
            world=World(rank=0, size=1, device=torch.device("cpu")),
            events=EventLog(run),
            stop=stop,
        ).fit()
        assert status == ("stopped" if stops else "finished")
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return load_model_state(checkpoint)


def test_a_resumed_run_mixes_and_erases_like_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", interrupted=False)
    parts = trained(tmp_path / "parts", interrupted=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
