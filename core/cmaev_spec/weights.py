"""What `init` may name besides a run: files and folders of weights, told apart by their names."""

from pathlib import Path
from typing import Final

SAFETENSORS_SUFFIX: Final = ".safetensors"
PICKLE_SUFFIXES: Final = (".pth", ".pt", ".bin")
"""Files of torch.save; they are read with restricted unpickling only."""
HF_CONFIG: Final = "config.json"
"""What makes a folder one of Hugging Face `transformers`."""
HF_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""Its weights, the first that is there; each may be split, with an index beside it."""


def is_weights_file(path: str | Path) -> bool:
    """Whether a path is named like a file of weights."""
    return Path(path).suffix in (SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES)


def source_problem(path: str | Path) -> str | None:
    """Why no model can start from `path`, as far as names of files tell; None if one may."""
    place = Path(path)
    if not place.exists():
        return f"{path} is not there"
    if place.is_file():
        if is_weights_file(place):
            return None
        known = ", ".join((SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES))
        return f"{path} is no file of weights; their names end in {known}"
    if (place / "spec.json").is_file() or (place / HF_CONFIG).is_file():
        return None
    for run in place.absolute().parents[:3]:
        if (run / "spec.json").is_file():
            return (
                f"{path} is a part of the run {run}; give the run, whose newest checkpoint counts"
            )
    return (
        f"{path} is neither a run directory, which has a spec.json, nor a Hugging Face folder, "
        f"which has a {HF_CONFIG}"
    )
