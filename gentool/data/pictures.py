"""One picture file to one uint8 array, by stated rules; the rest are errors that name the file.

Rules (each use is counted): palette and bilevel pictures become RGB or gray; transparency is laid over white;
gray among colour is repeated to RGB. Refused: 16-bit and float pictures, CMYK, and anything truncated. EXIF
rotation is applied, as viewers do.
"""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gentool.data.options import ImageConfig
from gentool.errors import CorruptError, UserError

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright."""
_GRAY = ("1", "L", "LA", "La")
_ALPHA = ("LA", "La", "RGBA", "RGBa", "PA")
_REFUSED = {
    "CMYK": "CMYK colours; convert it to RGB with a colour profile of your choice",
    "YCbCr": "raw YCbCr colours; convert it to RGB",
    "LAB": "LAB colours; convert it to RGB",
    "HSV": "HSV colours; convert it to RGB",
}


def open_picture(data: bytes, where: str) -> Image.Image:
    """Opens a picture by its header alone.

    Raises:
        CorruptError: not a picture, larger than Pillow's bomb limit, or of a mode that no rule covers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise CorruptError("not a picture that can be read, or its header is damaged", where) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptError(f"refused: {error}", where) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptError(f"cannot be read ({error})", where) from error
    if picture.mode in _REFUSED:
        raise CorruptError(_REFUSED[picture.mode], where)
    if picture.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        raise CorruptError(f"mode {picture.mode} (16-bit or float); convert it to 8 bits a channel", where)
    if _deep(picture):
        raise CorruptError("16 bits a channel; convert it to 8 bits in a way of your choice", where)
    if getattr(picture, "is_animated", False):
        raise CorruptError("holds several frames; keep one picture a file", where)
    return picture


def _deep(picture: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel; Pillow would drop the lower ones without a word."""
    tiles = getattr(picture, "tile", [])
    tile = tiles[0].args if tiles else ()
    args = tile if isinstance(tile, tuple) else (tile,)
    deep = [arg for arg in args if isinstance(arg, str) and arg.endswith((";16B", ";16L", ";16N"))]
    return bool(deep) or (picture.format == "PPM" and any(isinstance(arg, int) and arg > 255 for arg in args))


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) after the EXIF rotation."""
    return (picture.height, picture.width) if _orientation(picture) >= 5 else picture.size


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or it makes no sense, as viewers do."""
    if "exif" not in picture.info:  # asked of such a PNG, Pillow would decode all of it to look for more
        return 1
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, OSError, KeyError, IndexError, TypeError, struct.error):
        return 1
    return found if found in _TURNS else 1


def is_gray(picture: Image.Image) -> bool:
    """Whether the header says that the picture has no colour."""
    return picture.mode in _GRAY


def rules_used(picture: Image.Image, channels: int) -> list[str]:
    """The conversions that `decode` will make, in words; by the header alone."""
    used = []
    if picture.mode in _ALPHA or "transparency" in picture.info:
        used.append("transparency laid over white")
    if is_gray(picture) and channels == 3:
        used.append("gray repeated to RGB")
    if not is_gray(picture) and channels == 1:
        used.append("colour turned to gray (ITU-R 601)")
    if picture.mode in ("P", "PA", "1"):
        used.append("palette or bilevel expanded")
    return used


def decode(picture: Image.Image, where: str, channels: int, options: ImageConfig) -> np.ndarray:
    """-> (channels, H, W) uint8: mode by the rules, then crop, resize and pad.

    Raises:
        CorruptError: truncated or damaged data.
        UserError: not square where it must be, or larger than the padding.
    """
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise CorruptError(f"truncated or damaged ({error})", where) from error
    turn = _TURNS.get(_orientation(picture))
    picture = picture if turn is None else picture.transpose(turn)
    if picture.mode in _ALPHA or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return fit(picture.convert("L" if channels == 1 else "RGB"), where, options)


def fit(picture: Image.Image, where: str, options: ImageConfig) -> np.ndarray:
    """(C, H, W) uint8 of a gray or RGB picture, cropped, resized and padded as the options say."""
    width, height = picture.size
    if options.crop == "center" and width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if options.size is not None and picture.size != (options.size, options.size):
        if picture.width != picture.height:
            raise UserError(f"is {width}x{height}; to resize it without distortion set crop: center", where)
        picture = picture.resize((options.size, options.size), _FILTERS[options.filter])
    pixels = np.asarray(picture, np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if options.pad is not None:
        high, wide = options.pad - pixels.shape[1], options.pad - pixels.shape[2]
        if high < 0 or wide < 0:
            raise UserError(f"is {pixels.shape[2]}x{pixels.shape[1]}, more than pad: {options.pad}", where)
        pixels = np.pad(pixels, ((0, 0), (high // 2, high - high // 2), (wide // 2, wide - wide // 2)))
    return pixels


def fit_array(array: np.ndarray, where: str, options: ImageConfig) -> np.ndarray:
    """(N, H, W, C) uint8 -> the same layout, each picture fitted; the array itself where nothing changes."""
    height, width = array.shape[1:3]
    if len(array) == 0 or options.fitted_size(width, height) == (width, height):
        return array
    flat = array[..., 0] if array.shape[-1] == 1 else array
    return np.stack([np.moveaxis(fit(Image.fromarray(pixels), where, options), 0, -1) for pixels in flat])
