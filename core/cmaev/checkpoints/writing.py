"""New files and folders that are whole or not there, and the tensors that go into them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from cmaev.models import CMAEV, VideoClassifier
from cmaev.models.vit import ViTEncoder
from cmaev_spec.exits import BadInput
from cmaev_spec.files import sync_directory

PEERS_KNOW = ("encoder.", "encoder_to_decoder.", "mask_token", "decoder.", "fc_norm.", "head.")
"""What VideoMAE has too; the contrastive branch stays at home."""


def vit_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a ViT model shares with VideoMAE, detached, on the CPU.

    Raises:
        BadInput: if the model is none of ours, or its encoder is a hybrid, which no peer can read.
    """
    if not isinstance(model, CMAEV | VideoClassifier):
        raise BadInput(f"model: {type(model).__name__} is neither CMAEV nor VideoClassifier")
    if not isinstance(model.encoder, ViTEncoder):
        raise BadInput(
            f"model: {type(model.encoder).__name__} cannot be written in this format, which knows "
            "the ViT encoder alone; keep the run's own safetensors"
        )
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(PEERS_KNOW)
    }


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` at the end.

    Raises:
        BadInput: if `path` is there already.
    """
    if path.exists():
        raise BadInput(f"out: {path} is there already; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path` at the end.

    Raises:
        BadInput: if `path` is there already and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"out: {path} is there already; choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)  # as other files of results; safetensors makes its own private
            _sync(file)
        sync_directory(temporary)
        temporary.chmod(0o755)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def _sync(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
