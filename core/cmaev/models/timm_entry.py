"""Every registered model under its own name in timm: `timm.create_model("cmaev_vit_base_…")`.

timm finds models by entry points: functions whose `__name__` is the model's. They are made here
from the registry, so a model that is added there is in timm too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.models import is_model, model_entrypoint, register_model

from cmaev.models.classifier import VideoClassifier
from cmaev.models.registry import create_model

__all__: list[str] = []  # timm appends the names of models that this module registers

EntryPoint = Callable[..., VideoClassifier]


def register_with_timm(name: str) -> None:
    """Makes a model of the registry known to timm; once is enough, and again does no harm."""
    if is_model(name) and model_entrypoint(name).__module__ == __name__:
        return
    globals()[name] = register_model(entry_point(name))


def entry_point(name: str) -> EntryPoint:
    """The function that timm calls to create a model."""

    def create(
        pretrained: bool = False,
        *,
        pretrained_cfg: str | Mapping[str, Any] | None = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
        **arguments: Any,
    ) -> VideoClassifier:
        if pretrained or pretrained_cfg or pretrained_cfg_overlay or cache_dir:
            raise ValueError(
                f"pretrained: no weights are published for {name}, so there is nothing to fetch or "
                "to configure; create it without, and load your own by "
                "cmaev.checkpoints.load_pretrained(model, source)"
            )
        return create_model(name, **arguments)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = (
        f"{name} with random weights; arguments are those of `cmaev.models.create_model`."
    )
    return create
