"""`cmaev weights`, as a user runs it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from cmaev.checkpoints import export_huggingface, export_videomae, load_pretrained
from cmaev.checkpoints.runs import build_classifier, build_pretraining_model
from cmaev.cli import build
from cmaev.engine.checkpoint import save_checkpoint
from cmaev.models import create_model
from cmaev_spec.exits import BadInput
from cmaev_spec.job import parse_job
from cmaev_spec.rundir import RunDir

NANO = "cmaev_vit_nano_patch8_32"
HYBRID = "cmaev_convvit_nano_patch8_32"


def weights(*arguments):
    return CliRunner().invoke(build(), ["weights", *map(str, arguments)])


@pytest.fixture
def make_run(tmp_path):
    """A run directory with one checkpoint of initial weights."""

    def make(kind, *, model=NANO, **options):
        data = {"index": "train.csv"} | ({"val_index": "val.csv"} if kind == "finetune" else {})
        optim = {"base_lr": 1e-3, "batch_size": 4, "epochs": 2}
        spec = {"kind": kind, "model": {"name": model, **options}, "data": data, "optim": optim}
        spec["data"]["clip"] = {"frames": 8, "size": 32, "stride": 1}
        job = parse_job(spec)
        run = RunDir(tmp_path / f"{kind}-run")
        run.claim(job)
        if kind == "finetune":
            run.labels.write_text(json.dumps(["left", "right", "up"]))
            built = build_classifier(job, num_classes=3)
        else:
            built = build_pretraining_model(job)
        save_checkpoint(run, step=1, epoch=1.0, spec_hash="", model=built.state_dict(), state={})
        return run.path, built

    return make


def test_a_file_is_explained_and_its_models_are_found(tmp_path):
    path = export_videomae(create_model(NANO, num_classes=3), tmp_path / "file.pth")
    shown = weights("show", path)
    assert shown.exit_code == 0
    assert "finetuning weights of this project" in shown.stdout
    assert f"fits {NANO}\n" in shown.stdout
    found = json.loads(weights("show", path, "--json").stdout)
    assert found["models"] == [NANO]
    assert found["parameters"] == sum(
        p.numel() for p in create_model(NANO, num_classes=3).parameters()
    )


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_hybrid_is_found_whatever_its_kernel(make_run, kernel):
    path, _ = make_run("finetune", model=HYBRID, temporal_kernel=kernel)
    assert json.loads(weights("show", path, "--json").stdout)["models"] == [HYBRID]
    compared = json.loads(weights("show", path, "--model", HYBRID, "--json").stdout)
    assert "encoder.blocks1.0.attn.weight" in compared["loaded"]


def test_a_licence_is_told_apart_from_the_answer(tmp_path):
    state = create_model(NANO, num_classes=3).encoder.state_dict()
    torch.save({"module": state}, tmp_path / "file.pth")
    shown = weights("show", tmp_path / "file.pth", "--json")
    assert "CC-BY-NC-4.0" in json.loads(shown.stdout)["warnings"][0]
    assert "warning: " in shown.stderr
    assert "CC-BY-NC-4.0" in shown.stderr


def test_weights_that_fit_nothing_are_told_so(tmp_path):
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "file.pth")
    assert "fits no registered model" in weights("show", tmp_path / "file.pth").stdout


def test_a_comparison_with_a_model_accounts_for_every_tensor(tmp_path):
    folder = export_huggingface(create_model(NANO, num_classes=3), tmp_path / "hub")
    account = json.loads(weights("show", folder, "--model", NANO, "--json").stdout)
    assert set(account["skipped"]) == {"head.weight", "head.bias"}
    assert set(account["initial"]) == {"head.weight", "head.bias"}
    plain = weights("show", folder, "--model", NANO, "--task", "pretrain").stdout
    assert "copied encoder to target_encoder" in plain
    assert "this model has no head" in plain


def test_a_comparison_loads_what_it_says(tmp_path):
    path = export_videomae(create_model(NANO, num_classes=3), tmp_path / "file.pth")
    account = json.loads(weights("show", path, "--model", NANO, "--json").stdout)
    report = load_pretrained(create_model(NANO), path)
    assert account == json.loads(report.to_json())


def test_another_architecture_is_bad_input(tmp_path):
    path = export_videomae(create_model(NANO), tmp_path / "file.pth")
    for model, words in ((HYBRID, "another architecture"), ("cmaev_vit_none", "there are: cmaev_")):
        error = weights("show", path, "--model", model).exception
        assert isinstance(error, BadInput)
        assert words in str(error)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
@pytest.mark.parametrize("to", ["huggingface", "videomae"])
def test_a_run_goes_out_and_comes_back(tmp_path, make_run, kind, to):
    path, model = make_run(kind)
    out = tmp_path / ("hub" if to == "huggingface" else "file.pth")
    assert weights("export", path, "--out", out, "--format", to).exit_code == 0
    if to == "huggingface" and kind == "finetune":
        config = json.loads((out / "config.json").read_text())
        assert config["id2label"] == {"0": "left", "1": "right", "2": "up"}
    again = create_model(NANO, num_classes=3)
    load_pretrained(again, out)
    name = "encoder.blocks.2.attn.qkv.weight"
    assert torch.equal(again.state_dict()[name], model.state_dict()[name])


def test_a_run_of_a_hybrid_stays_at_home(tmp_path, make_run):
    path, _ = make_run("pretrain", model=HYBRID)
    error = weights("export", path, "--out", tmp_path / "hub").exception
    assert isinstance(error, BadInput)
    assert "the ViT encoder alone" in str(error)
    assert not (tmp_path / "hub").exists()
