"""Tensors out of files that strangers made: nothing in a file is ever run.

`.safetensors` files cannot hold code. Files of `torch.save` are pickles, which can: torch's
restricted unpickler reads them, which builds tensors and plain containers and refuses all else
before anything of it is called. VideoMAE's files hold their command line as an
`argparse.Namespace`, a plain bag of values, which is allowed besides.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmaev_spec.exits import BadInput
from cmaev_spec.weights import PICKLE_SUFFIXES, SAFETENSORS_SUFFIX

STATE_KEYS = ("model", "module", "state_dict")
"""Where a training script keeps the weights among other things (`module` is DeepSpeed's)."""


@dataclass(frozen=True)
class TensorFile:
    """The weights of one file."""

    tensors: dict[str, Tensor]
    container: str
    """`safetensors`, or the key they stood under in a pickle, or `` for a bare mapping."""
    marks: frozenset[str]
    """The other top-level keys of a pickle."""


def read_tensor_file(path: Path) -> TensorFile:
    """Reads the tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file.

    Raises:
        BadInput: if the file is missing, damaged, holds no tensors, or holds more than data.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not there")
    if path.suffix == SAFETENSORS_SUFFIX:
        try:
            return TensorFile(dict(load_file(path)), "safetensors", frozenset())
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{path} is not a safetensors file: {error}") from None
    if path.suffix not in PICKLE_SUFFIXES:
        known = ", ".join((SAFETENSORS_SUFFIX, *PICKLE_SUFFIXES))
        raise BadInput(f"{path} is no file of weights; their names end in {known}")
    content = _unpickle(path)
    key = next((key for key in STATE_KEYS if isinstance(content.get(key), Mapping)), "")
    state = content[key] if key else content
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        keys = ", ".join(repr(name) for name in list(content)[:5]) or "nothing"
        raise BadInput(
            f"{path} holds no tensors, neither at its top nor under {STATE_KEYS}: {keys}"
        )
    return TensorFile(tensors, key, frozenset(map(str, content)) - {key})


def _unpickle(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # The restricted unpickler goes on after this warning, and says clearly if it cannot.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(
                path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} holds more than tensors and plain values, and nothing else in it is run: "
            f"{_forbidden(error)}; save its state_dict alone, best as .safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AssertionError) as error:
        raise BadInput(f"{path} is not a whole file of torch.save: {_first_line(error)}") from None
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds a {type(content).__name__}; a mapping of tensors is needed")
    return content


def _forbidden(error: Exception) -> str:
    """What the unpickler refused; torch's own message goes on to say how to run it regardless."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {named[1]}" if named else "its pickle is not one that torch.save writes"


def _first_line(error: Exception) -> str:
    """The first line of a long message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
