"""How much every arm may train: the same for all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Sizes of the study; learning rates are those of a step, not per 256 clips."""

    model: str
    size: int
    """Side of the clips, in pixels."""
    pretrain_epochs: int
    finetune_epochs: int
    learning_rates: tuple[float, ...]
    """That finetuning is tuned over, for every arm alike."""
    layer_decays: tuple[float, ...]
    cache: str
    """Where decoded frames lie."""
    frames: int = 16
    stride: int = 4
    """Raw frames between those of a pretraining clip; finetuning spans the whole video."""
    mask_ratio: float = 0.9
    pretrain_seeds: int = 2
    finetune_seeds: int = 2
    """For each pretraining; training from scratch has as many runs as the others."""
    grid_epochs: int = 100
    """Of pretraining in the grid of weights and shifts."""
    pretrain_lr: float = 4e-4
    pretrain_batch: int = 64
    finetune_batch: int = 32
    inner_folds: int = 2
    """Training folds that the setting of finetuning is chosen on, each left out in turn."""
    every: int = 1
    """One of so many clips is used."""


BUDGETS = {
    "gpu": Budget(
        model="cmaev_vit_tiny_patch16_224",
        size=112,
        pretrain_epochs=400,
        finetune_epochs=60,
        learning_rates=(2e-4, 5e-4, 1e-3),
        layer_decays=(0.75, 1.0),
        cache="device",
    ),
    "cpu": Budget(
        model="cmaev_vit_nano_patch8_32",
        size=32,
        frames=8,
        stride=8,
        mask_ratio=0.75,
        pretrain_epochs=90,
        finetune_epochs=30,
        learning_rates=(3e-4, 1e-3),
        layer_decays=(0.75, 1.0),
        finetune_seeds=1,
        inner_folds=1,
        grid_epochs=40,
        pretrain_lr=1e-3,
        finetune_batch=8,
        cache="memory",
    ),
    "quick": Budget(
        model="cmaev_vit_nano_patch8_32",
        size=32,
        pretrain_epochs=2,
        finetune_epochs=2,
        learning_rates=(1e-3,),
        layer_decays=(1.0,),
        cache="memory",
        finetune_seeds=1,
        grid_epochs=1,
        pretrain_batch=8,
        finetune_batch=8,
        every=8,
    ),
}
