"""Weights in and out of models."""

from cmaev.checkpoints.huggingface_export import export_huggingface
from cmaev.checkpoints.load import load_pretrained
from cmaev.checkpoints.report import LoadReport
from cmaev.checkpoints.runs import LoadedClassifier, load_classifier
from cmaev.checkpoints.videomae import export_videomae

__all__ = [
    "LoadReport",
    "LoadedClassifier",
    "export_huggingface",
    "export_videomae",
    "load_classifier",
    "load_pretrained",
]
