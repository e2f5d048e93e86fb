"""What a source is: a run, a file or a folder, and whose names it uses."""

from pathlib import Path

from cmaev.checkpoints.convmae import from_convmae, is_convmae
from cmaev.checkpoints.files import read_tensor_file
from cmaev.checkpoints.huggingface import from_folder, from_huggingface, is_huggingface
from cmaev.checkpoints.naming import unwrap
from cmaev.checkpoints.runs import from_run
from cmaev.checkpoints.videomae import from_videomae, is_videomae
from cmaev.checkpoints.weights import Weights
from cmaev_spec.exits import BadInput
from cmaev_spec.rundir import resolve_run
from cmaev_spec.weights import HF_CONFIG, source_problem


def open_source(source: str | Path) -> Weights:
    """Reads weights from wherever they are and translates their names into ours.

    Raises:
        BadInput: if there is nothing at `source` that holds weights, or it cannot be read.
    """
    run = resolve_run(str(source))
    if str(source).startswith("job:") or run.spec.is_file():
        return from_run(run)
    path = Path(source)
    problem = source_problem(path)
    if problem is not None:
        raise BadInput(problem)
    if path.is_dir():
        assert (path / HF_CONFIG).is_file(), "source_problem knows no other folder"
        return from_folder(path)
    return from_file(path)


def from_file(path: Path) -> Weights:
    """The weights of one file, whichever project's names it uses.

    Raises:
        BadInput: if it is damaged, or holds more than data.
    """
    file = read_tensor_file(path)
    if is_huggingface(file.tensors):
        return from_huggingface(file.tensors, {})
    if is_convmae(file.tensors):
        return from_convmae(file)
    if is_videomae(file.tensors):
        return from_videomae(file)
    return Weights(origin="a file", tensors=unwrap(file.tensors))
