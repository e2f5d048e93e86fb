"""Weights in and out of models."""

from cmaev.checkpoints.runs import LoadedClassifier, LoadReport, load_classifier, load_pretrained

__all__ = ["LoadReport", "LoadedClassifier", "load_classifier", "load_pretrained"]
