"""CMAE-V: contrastive masked autoencoders for video. Importing this package loads no torch.

What stands in `__all__` is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

from cmaev_spec import __version__

if TYPE_CHECKING:
    from cmaev.checkpoints import load_pretrained
    from cmaev.interface.jobs import finetune, pretrain
    from cmaev.interface.process import RunFailed, RunStopped
    from cmaev.interface.run import Run
    from cmaev.models import create_model, create_pretraining_model, list_models
    from cmaev_spec.exits import BadInput
    from cmaev_spec.preset import list_presets
else:
    from importlib import import_module

    _PLACES = {
        "BadInput": "cmaev_spec.exits",
        "Run": "cmaev.interface.run",
        "RunFailed": "cmaev.interface.process",
        "RunStopped": "cmaev.interface.process",
        "create_model": "cmaev.models",
        "create_pretraining_model": "cmaev.models",
        "finetune": "cmaev.interface.jobs",
        "list_models": "cmaev.models",
        "list_presets": "cmaev_spec.preset",
        "load_pretrained": "cmaev.checkpoints",
        "pretrain": "cmaev.interface.jobs",
    }

    def __getattr__(name):
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_PLACES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *_PLACES})


__all__ = [
    "BadInput",
    "Run",
    "RunFailed",
    "RunStopped",
    "__version__",
    "create_model",
    "create_pretraining_model",
    "finetune",
    "list_models",
    "list_presets",
    "load_pretrained",
    "pretrain",
]
