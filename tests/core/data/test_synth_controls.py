"""What a small 3D convolution learns from generated videos: motion, and nothing else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmaev.data.index import open_index
from cmaev.data.loader import EpochLoader
from cmaev.data.synth import SynthSet, synthesise
from cmaev.data.views import FinetuneViews
from cmaev_spec.data import ClipSpec, FinetuneData

CLIP = ClipSpec(frames=8, stride=4, size=32)
EPOCHS = 25
Order = Callable[[torch.Generator], Tensor]

CONTROLS: dict[str, tuple[Order, float, float]] = {
    "in order": (lambda g: torch.arange(8), 0.9, 1.0),
    "shuffled": (lambda g: torch.randperm(8, generator=g), 0.3, 0.55),
    "one frame": (lambda g: torch.randint(8, (1,), generator=g).expand(8), 0.0, 0.3),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SynthSet:
    return synthesise(Path(tmp_path_factory.mktemp("controls")) / "set", val_per_class=50)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on clips this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loader(index: Path) -> EpochLoader:
    data = FinetuneData(
        index=str(index), val_index=str(index), clip=CLIP, crop_area=(0.7, 1.0), cache="memory"
    )
    views = FinetuneViews(open_index(index), data, seed=0)
    return EpochLoader(views, batch_size=16, seed=0, shuffle=True, drop_last=True)


def frames(video: Tensor, order: Order, generator: torch.Generator) -> Tensor:
    """Normalised (B, 3, T, H, W) whose frames each clip reorders on its own."""
    mixed = torch.stack([clip[order(generator)] for clip in video])
    return (mixed.permute(0, 4, 1, 2, 3).float() / 255 - 0.3) / 0.3


def network() -> nn.Sequential:
    def block(inputs: int, outputs: int, stride: tuple[int, int, int]) -> nn.Sequential:
        convolution = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU())

    return nn.Sequential(
        block(3, 12, (1, 2, 2)),
        block(12, 24, (1, 2, 2)),
        block(24, 48, (2, 2, 2)),
        block(48, 64, (2, 1, 1)),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(64, 8),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CONTROLS)
def test_only_motion_tells_the_class(made: SynthSet, name: str) -> None:
    order, least, most = CONTROLS[name]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = network()
    train = loader(made.train)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=EPOCHS * len(train))
    for epoch in range(EPOCHS):
        for batch in train.epoch(epoch):
            logits = model(frames(batch["video"].flatten(0, 1), order, generator))
            optimizer.zero_grad()
            F.cross_entropy(logits, batch["label"], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    right = []
    with torch.no_grad():
        for batch in loader(made.val).epoch(0):
            guess = model(frames(batch["video"].flatten(0, 1), order, generator)).argmax(dim=1)
            right.append(guess == batch["label"])
    accuracy = torch.cat(right).float().mean().item()
    assert least <= accuracy <= most, f"{name}: {accuracy:.3f}"
