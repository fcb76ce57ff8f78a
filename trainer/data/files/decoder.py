"""Decodes an image file to pixels of one size and number of channels.

Exports of a model of images hold a copy of this file, so it needs only NumPy and Pillow.
"""

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes, by the number of channels
MAX_LEVEL = 65_535  # of 16 bits
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"]
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # 16 bits
_TRANSPARENT_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_DRAFT = 2  # times the size needed, to which a JPEG may be decoded
_MEGAPIXEL = 10**6

Image.MAX_IMAGE_PIXELS = None  # `Decoder.max_megapixels`, which a key sets, replaces it
with contextlib.suppress(ImportError):  # the extra [heic]
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS.append("HEIF")


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Says why a file cannot be read as an image."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes an image file to pixels of a size and a number of channels.

    `image_size` is the side of a square, or (height, width); 0 keeps the size. `channels` is 1 for
    grey, 3 for colour, 4 for colour with transparency, 0 for grey or colour as the image is. `fit`
    is how to resize an image of another aspect ratio: "stretch", "crop" to the middle, or "pad"
    with the background. Transparent pixels get the background, a colour of `PIL.ImageColor`.
    `white` is the level of 16-bit images that becomes 255.
    """

    image_size: int | tuple[int, int] = 0
    channels: int = 0
    fit: str = "stretch"
    background: str = "black"
    white: int = MAX_LEVEL
    max_megapixels: float = 200.0

    def __call__(self, path: Path) -> np.ndarray | Unreadable:
        """Returns the pixels of a file, uint8 [H, W, C], upright by its EXIF orientation."""
        try:
            with Image.open(path, formats=FORMATS) as image:
                megapixels = image.width * image.height / _MEGAPIXEL
                if megapixels > self.max_megapixels:
                    return Unreadable(
                        f"it has {megapixels:,.0f} megapixels; data.max_megapixels="
                        f"{self.max_megapixels:g} limits them"
                    )
                channels = self.channels or (1 if image.mode in GREY_MODES else 3)
                self._draft(image)
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.asarray(self._resize(self._convert(image, channels)))
        except Exception as error:  # each format fails in its own way
            return Unreadable(getattr(error, "strerror", None) or _in_one_line(error))
        return pixels.reshape(*pixels.shape[:2], channels)

    def _draft(self, image: Image.Image) -> None:
        """Lets a JPEG be decoded at a fraction of its size, if it will be scaled down further."""
        if self.image_size and image.format == "JPEG":
            size = self._size()
            scale = max(max(size) / min(image.size), max(size) / max(image.size))
            width, height = (math.ceil(_DRAFT * scale * side) for side in image.size)
            image.draft(None, (width, height))

    def _size(self) -> tuple[int, int]:
        """Returns (width, height), as Pillow takes it."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else (side[1], side[0])

    def _resize(self, image: Image.Image) -> Image.Image:
        size = self._size()
        if self.image_size == 0 or image.size == size:
            return image
        resample = Image.Resampling.BILINEAR  # antialiased, as TFDS's images are
        if self.fit == "crop":
            return ImageOps.fit(image, size, resample)
        if self.fit == "pad":
            return ImageOps.pad(image, size, resample, color=self._colour(image.mode))
        return image.resize(size, resample)

    def _convert(self, image: Image.Image, channels: int) -> Image.Image:
        if image.mode in DEEP_MODES:  # Pillow would clip 16 bits at 255
            levels = np.asarray(image, np.float64) * (255 / self.white)
            image = Image.fromarray(np.round(np.clip(levels, 0, 255)).astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, whose range is not known")
        is_transparent = image.mode in _TRANSPARENT_MODES or "transparency" in image.info
        if is_transparent and channels < 4:
            above = image.convert("RGBA")
            below = Image.new("RGBA", image.size, self._colour("RGBA"))
            image = Image.alpha_composite(below, above)
        # Pillow's convert copies even an image of this mode.
        return image if image.mode == MODES[channels] else image.convert(MODES[channels])

    def _colour(self, mode: str) -> int | tuple[int, ...]:
        return ImageColor.getcolor(self.background, mode)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
