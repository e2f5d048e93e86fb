"""What an exported model says about itself, kept in the metadata of its ONNX file.

```
cmaev.schema      "1"
cmaev.labels      JSON list of label names in the order of the logits
cmaev.sampling    JSON object: which frames to show it and how to resize them
cmaev.provenance  JSON object: where it comes from and how close it is to PyTorch
```
"""

import json
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationError

from cmaev_spec.base import Spec
from cmaev_spec.exits import BadInput

SCHEMA = "1"


class ModelError(BadInput):
    """A model file that cannot be served, with the reason for users."""


class Sampling(Spec):
    """How a video becomes the input of the model: uint8 frames (B, T, H, W, 3)."""

    frames: int = Field(ge=1, description="T")
    stride: int = Field(ge=1, description="raw frames between two frames of a view")
    size: int = Field(ge=1, description="H and W")
    num_clips: int = Field(ge=1, description="views in time that an answer averages")
    mode: Literal["dense", "linspace", "tsn"] = Field(
        "dense", description="tsn: a frame of each of `frames` equal parts of the video"
    )
    resize: Literal["short-side-bilinear-center-crop"] = "short-side-bilinear-center-crop"


class Provenance(Spec):
    """Where a model comes from."""

    name: str
    job_kind: str
    job_hash: str
    encoder: str
    checkpoint_step: int
    cmaev_version: str
    torch_version: str
    parity_max_difference: float = Field(description="largest difference of a logit to PyTorch")


class ModelMetadata(Spec):
    """Everything that is needed to serve a model beside its graph."""

    labels: tuple[str, ...] = Field(min_length=2)
    sampling: Sampling
    provenance: Provenance

    def to_properties(self) -> dict[str, str]:
        """The entries of the ONNX file's `metadata_props`."""
        data = self.model_dump(mode="json")
        return {"cmaev.schema": SCHEMA} | {
            f"cmaev.{key}": json.dumps(value, sort_keys=True) for key, value in data.items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "ModelMetadata":
        """Reads the entries back.

        Raises:
            ModelError: if the file was not exported by cmaev, or by a version with another schema.
        """
        schema = properties.get("cmaev.schema")
        if schema is None:
            raise ModelError(
                "model: no cmaev metadata; export it with `cmaev export RUN --out DIR`"
            )
        if schema != SCHEMA:
            raise ModelError(
                f"model: metadata schema {schema!r} is unknown, this version reads {SCHEMA!r}; "
                "export the run again"
            )
        try:
            return cls.model_validate(
                {
                    key: json.loads(properties.get(f"cmaev.{key}", "null"))
                    for key in ("labels", "sampling", "provenance")
                }
            )
        except (ValidationError, json.JSONDecodeError) as error:
            raise ModelError(
                f"model: damaged cmaev metadata; export the run again ({error})"
            ) from None
