"""Decoders of plain pixels in folders of `transformers`."""

import torch

from cmaev.checkpoints import export_huggingface, load_pretrained
from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev.models import create_pretraining_model
from cmaev.models.pixels import tubelets
from cmaev.models.tokens import split_mask

NANO = "cmaev_vit_nano_patch8_32"


def test_a_model_of_plain_pixels_is_exported_with_the_colours_it_rebuilds(
    tmp_path, with_random_weights
):
    """And comes back as it was; `transformers` predicts colours of 0 to 1 there."""
    from transformers import VideoMAEForPreTraining

    plain = {"contrast_weight": 0.0, "norm_pix": False}
    model = with_random_weights(create_pretraining_model(NANO, **plain))
    folder = export_huggingface(model, tmp_path / "out")
    theirs = VideoMAEForPreTraining.from_pretrained(folder).eval()
    theirs.decoder.norm.eps = 1e-6  # fixed at 1e-5 there
    video = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(len(video), 64, dtype=torch.bool)
    mask[:, 16:] = True
    visible, hidden = split_mask(mask)
    with torch.no_grad():
        prediction = model.decode(model.encoder(video, visible), visible, hidden)
        answer = theirs(video.transpose(1, 2), bool_masked_pos=mask)
    colours = model.pixels.rebuilt(prediction, video, hidden)
    torch.testing.assert_close(answer.logits, colours, rtol=1e-4, atol=1e-4)
    true = tubelets(
        video * torch.tensor(IMAGENET_STD)[:, None, None, None]
        + torch.tensor(IMAGENET_MEAN)[:, None, None, None],
        tubelet_size=2,
        patch_size=8,
    ).flatten(2)[:, 16:]
    torch.testing.assert_close(answer.loss, (colours - true).square().mean())
    again = create_pretraining_model(NANO, **plain)
    load_pretrained(again, folder)
    torch.testing.assert_close(again.decoder.head.weight, model.decoder.head.weight)
    torch.testing.assert_close(again.decoder.head.bias, model.decoder.head.bias)
