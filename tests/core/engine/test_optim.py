import pytest

from cmaev.engine.optim import build_optimizer, has_decay, layer_decay_scale, set_lr
from cmaev.models import create_encoder, create_model, create_pretraining_model
from cmaev_spec.optim import FinetuneOptimSpec

NANO = "cmaev_vit_nano_patch8_32"


def test_vectors_and_the_mask_token_do_not_decay():
    model = create_pretraining_model(NANO)
    free = {name for name, p in model.named_parameters() if not has_decay(name, p)}
    assert {"mask_token", "encoder.norm.weight", "projector.1.weight"} <= free
    assert "encoder.patch_embed.proj.weight" not in free


def test_layer_decay_is_the_closed_formula():
    scale = layer_decay_scale(0.75, create_encoder("cmaev_vit_tiny_patch16_224"))
    assert scale("encoder.patch_embed.proj.weight") == pytest.approx(0.75**13)
    assert scale("encoder.blocks.11.attn.q_bias") == pytest.approx(0.75)
    assert scale("fc_norm.weight") == scale("head.weight") == 1
    assert scale("encoder.patch_embed.proj.bias") == pytest.approx(0.0238, abs=1e-4)


def test_every_trainable_parameter_is_in_one_group_and_follows_the_schedule():
    model = create_model(NANO, num_classes=3)
    spec = FinetuneOptimSpec(base_lr=1, batch_size=256, epochs=2)
    optimizer = build_optimizer(model, spec, layer_scale=layer_decay_scale(0.5, model.encoder))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    set_lr(optimizer, 0.1)
    rates = {round(group["lr"], 6) for group in optimizer.param_groups}
    assert rates == {round(0.1 * 0.5**k, 6) for k in range(6)}
