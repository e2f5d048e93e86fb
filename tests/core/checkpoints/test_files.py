"""Files of strangers: data is read, nothing else in them ever happens."""

import argparse
import collections
import os
import pathlib
import pickle

import pytest
import torch
from safetensors.torch import save_file

from cmaev.checkpoints.files import read_tensor_file
from cmaev_spec.exits import BadInput


class Malicious:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def tensors():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("key", ["model", "module", "state_dict", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_gives_its_tensors_wherever_they_stand(tmp_path, tensors, key, zipped):
    path = tmp_path / "file.pth"
    content = {key: tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if key else tensors
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    file = read_tensor_file(path)
    assert file.container == key
    assert file.tensors.keys() == tensors.keys()
    assert all(torch.equal(file.tensors[name], tensors[name]) for name in tensors)
    assert file.marks == ({"epoch", "args"} if key else tensors.keys())


def test_a_safetensors_file_gives_its_tensors(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    file = read_tensor_file(tmp_path / "model.safetensors")
    assert file.container == "safetensors"
    assert torch.equal(file.tensors["a.weight"], tensors["a.weight"])


@pytest.mark.parametrize("inside", ["beside", "namespace"])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_what_a_pickle_would_do_is_never_done(tmp_path, tensors, inside, suffix):
    path, trace = tmp_path / f"file{suffix}", tmp_path / "trace"
    bomb = Malicious(trace)
    torch.save(
        {"model": tensors, "args": argparse.Namespace(lr=bomb) if inside == "namespace" else bomb},
        path,
    )
    with pytest.raises(BadInput, match=r"holds more than tensors and plain values.*mkdir"):
        read_tensor_file(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file was harmless, so this test showed nothing"


def test_a_plain_pickle_is_never_run(tmp_path):
    path, trace = tmp_path / "file.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(BadInput, match="nothing else in it is run"):
        read_tensor_file(path)
    assert not trace.exists()


def test_objects_that_are_not_data_are_named(tmp_path, tensors):
    path = tmp_path / "file.pth"
    torch.save({"model": tensors, "counts": collections.ChainMap(), "at": pathlib.Path("x")}, path)
    with pytest.raises(BadInput, match=r"ChainMap.*state_dict alone"):
        read_tensor_file(path)


def test_namespaces_are_allowed_for_the_reading_only(tmp_path, tensors):
    torch.save({"model": tensors, "args": argparse.Namespace()}, tmp_path / "file.pth")
    read_tensor_file(tmp_path / "file.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "not a whole file"),
        ("a.pth", b"PK\x03\x04 and no more", "not a whole file|more than tensors"),
        ("a.safetensors", b"\x08\x00", "not a safetensors file"),
        ("a.txt", b"words", "no file of weights; their names end in .safetensors"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_tensor_file(tmp_path / name)


def test_a_truncated_file_is_refused(tmp_path, tensors):
    path = tmp_path / "file.pth"
    torch.save({"model": tensors}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="not a whole file"):
        read_tensor_file(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"lr": 0.1}}])
def test_files_without_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(BadInput, match=r"no tensors|a list; a mapping"):
        read_tensor_file(tmp_path / "file.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"none\.pth is not there"):
        read_tensor_file(tmp_path / "none.pth")


def test_keys_that_are_no_names_are_passed_over(tmp_path, tensors):
    torch.save({"model": {**tensors, 1: torch.zeros(3)}}, tmp_path / "file.pth")
    assert read_tensor_file(tmp_path / "file.pth").tensors.keys() == tensors.keys()
