"""What the pretraining task does to its views before the model sees them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmaev.data.color import ColorDraw, augment_color
from cmaev.models import create_pretraining_model
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.pretrain import PretrainTask
from cmaev_spec.model import ObjectiveSpec

FLIP = torch.tensor([True, False])


class Recorder(nn.Module):
    """Keeps what it is called with."""

    def forward(self, online: Tensor, target: Tensor, *_: object) -> dict[str, Tensor]:
        self.online, self.target = online, target
        return {"loss": online.sum()}


@pytest.fixture
def batch() -> dict[str, Tensor]:
    online, target = torch.randint(0, 256, (2, 2, 8, 32, 32, 3), dtype=torch.uint8)
    return {"online": online, "target": target, "mask": torch.ones(2, 64, dtype=torch.bool)}


def seen(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    model = create_pretraining_model("cmaev_vit_nano_patch8_32")
    recorder = Recorder()
    PretrainTask(model, objective=ObjectiveSpec(mask_ratio=0.75)).step(recorder, batch)
    return recorder.online, recorder.target


def test_without_draws_views_are_only_normalised(batch: dict[str, Tensor]) -> None:
    online, target = seen(batch)
    assert torch.equal(online, FrameNormaliser()(batch["online"]))
    assert torch.equal(target, FrameNormaliser()(batch["target"]))


def test_colour_changes_the_target_alone_and_flip_both(batch: dict[str, Tensor]) -> None:
    draw = ColorDraw(amounts=(1.3, 0.8, 0.7), hue=0.05, radius=1.0).pack()
    color = torch.from_numpy(np.stack([draw, ColorDraw(grey=1.0).pack()]))
    online, target = seen({**batch, "color": color, "flip": FLIP})
    plain, normalise = seen(batch)[0], FrameNormaliser()
    assert torch.equal(online[0], plain[0].flip(-1))
    assert torch.equal(online[1], plain[1])
    changed = normalise(augment_color(batch["target"], color))
    torch.testing.assert_close(target[0], changed[0].flip(-1), rtol=0, atol=1e-4)
    torch.testing.assert_close(target[1], changed[1], rtol=0, atol=1e-4)
