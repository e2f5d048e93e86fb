"""What a video may ask of the serving side; read from its header before anything is decoded."""

from pydantic import Field

from cmaev.data.decode import DecodeLimits
from cmaev_spec.base import Spec


class VideoLimits(Spec):
    """Limits on a video that a stranger sends; smaller than those of training."""

    max_pixels: int = Field(4096 * 2304, ge=64 * 64, description="width x height of a frame")
    max_frames: int = Field(40_000, ge=1)
    max_seconds: float = Field(600.0, gt=0.0)
    max_decoded_bytes: int = Field(1 << 30, ge=1 << 20, description="frames held at once")
    max_aspect_ratio: float = Field(8.0, ge=1.0, description="longer side over shorter side")

    def to_decode(self) -> DecodeLimits:
        """The part that the decoder checks."""
        return DecodeLimits(
            max_pixels=self.max_pixels,
            max_frames=self.max_frames,
            max_seconds=self.max_seconds,
            max_bytes=self.max_decoded_bytes,
        )
