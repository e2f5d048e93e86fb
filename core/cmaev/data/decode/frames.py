"""Videos that are kept as a folder of pictures, one for each frame; Pillow reads them."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmaev.data.decode.base import DecodeLimits, VideoInfo
from cmaev.data.decode.batch import BatchVideo
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder

# No other parser of Pillow is let near a file.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")


def open_frames(folder: FrameFolder, limits: DecodeLimits) -> BatchVideo:
    """Opens a folder of frames. Nothing tells their rate, so time counts frames.

    Raises:
        DataError: if the first frame cannot be read or is over the limits.
    """
    width, height = _read(folder.frame(0), limits).shape[1::-1]

    def fetch(indices: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        frames = [_read(folder.frame(index), limits) for index in indices]
        if len({frame.shape for frame in frames}) > 1:
            raise DataError("its frames are of different sizes; extract them again")
        return np.stack(frames), np.asarray(indices, dtype=np.float64)

    info = VideoInfo(
        width=width,
        height=height,
        fps=0.0,
        seconds=0.0,
        codec="pictures",
        container="folder",
        rotation=0,
    )
    return BatchVideo(fetch, info=info, num_frames=folder.total, limits=limits)


def _read(path: Path, limits: DecodeLimits) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            limits.check_size(*image.size)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"there is no frame {path.name}; extract the frames again") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"frame {path.name} cannot be read; extract it again") from None
