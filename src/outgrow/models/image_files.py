"""Image files as bytes: opened safely, and compared by what they show."""

import hashlib
import io
from typing import TYPE_CHECKING

from outgrow.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "SUFFIXES", "fingerprint", "open_picture"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")
"""The formats that are read. Others (TIFF, EPS, ICNS ...) are refused: few need them, and some of their readers start
programs."""
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".ppm", ".pgm"))
_MAX_PIXELS = 100_000_000
"""Of one image; a file of a few kilobytes can claim more and fill the memory."""


def open_picture(content: bytes, name: str) -> "Image":
    """The decoded image, gray (mode L) or in color (mode RGB); of an animation the first frame.

    Transparent pixels become black, as in the common loaders.

    Args:
        content: the bytes of the file.
        name: of the file or example, for the error.

    Raises:
        UserError: one line that names the image, if it is damaged, too large, or of a format or depth that is not read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise UserError(
                    f"{name}: {width} x {height} pixels are too many; shrink the image to at most 100 million"
                )
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"{name}: a gray image with more than 8 bits per pixel ({image.mode}); save it with 8 bits"
                )
            image.load()
            if image.mode in ("1", "L"):
                return image.convert("L")
            if "A" in image.mode or "transparency" in image.info:
                colors = image.convert("RGBA")
                return Image.composite(colors, Image.new("RGBA", colors.size), colors.getchannel("A")).convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: not an image that can be read; save it as one of {', '.join(FORMATS)}, or leave it out"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(f"{name}: too many pixels; shrink the image to at most 100 million") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's decoders raise each of them
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: the image is damaged ({error}); save it again, or leave it out") from None


def fingerprint(image: "Image") -> str:
    """Sha256 of what an image shows: equal for the same pixels in any format."""
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()
