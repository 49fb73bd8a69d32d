"""Decodes an image, and converts it to `data.image_shape` if `data.resize` is set."""

import io

import numpy as np

from aae_jax.errors import UserError

# Files that store a camera's orientation and need turning here; OpenCV turns TIFF itself.
_EXIF = (b"Exif\0\0", b"eXIf", b"EXIF")
_ORIENTATION = 0x0112
_TURNS = {  # from what is stored to what is upright
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def decode(encoded: bytes, shape: tuple[int, ...], name: str, resize: bool = False) -> np.ndarray:
    """Decodes PNG, JPEG and the other formats of OpenCV to uint8[H, W, C].

    Args:
        encoded: the content of the file.
        shape: (H, W, C); C is 1 or 3.
        name: of the image, for errors.
        resize: whether to convert images of other sizes, channels and depths; see `convert`. Only
            then is the camera's orientation applied.

    Raises:
        UserError: the file is not an image, is damaged, or has another shape or depth.
    """
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error says it
    flag = cv2.IMREAD_UNCHANGED
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    if pixels is None:
        raise UserError(f"{name} is not an image, or it is damaged or truncated")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{name} holds {pixels.dtype}: image files must have 8 or 16 bits; save floats in an .npz"
        )
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:  # OpenCV has blue first
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    elif pixels.shape[2] == 3:
        pixels = pixels[..., ::-1]
    elif pixels.shape[2] == 4:
        pixels = pixels[..., [2, 1, 0, 3]]
    if resize:
        return convert(_upright(pixels, encoded), shape, name)
    if pixels.shape != shape or pixels.dtype != np.uint8 or shape[2] not in (1, 3):
        raise UserError(
            f"{name} is {pixels.shape} of {pixels.dtype}, (height, width, channels): it must be "
            f"{shape}, data.image_shape, of uint8, grey or RGB; data.resize=True converts images"
        )
    return pixels


def _upright(pixels, encoded):
    if encoded[:4] in (b"II*\0", b"MM\0*") or not any(mark in encoded for mark in _EXIF):
        return pixels
    from PIL import Image

    try:
        orientation = Image.open(io.BytesIO(encoded)).getexif().get(_ORIENTATION, 1)
    except Exception:  # pillow reads fewer formats, and may raise anything
        return pixels
    return _TURNS.get(orientation, lambda x: x)(pixels)


def convert(image: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Converts an image of any size, grey, RGB or RGBA, to `shape`.

    16 bits are scaled to 8. Transparent pixels are laid over white. Colours become grey by the
    weights of ITU-R BT.601 (0.299, 0.587, 0.114). Grey becomes three equal channels. The largest
    centred crop with the proportions of `shape` is scaled, by area means when shrinking, by linear
    interpolation when growing.

    Args:
        image: uint8 or uint16, or float32 in [0, 1]: [h, w] or [h, w, c], c = 1, 3 or 4.
        shape: (H, W, C); C is 1 or 3.
        name: of the image, for errors.

    Returns:
        uint8[H, W, C]; float32 for a float32 image.

    Raises:
        UserError: the image is of another kind.
    """
    import cv2

    if image.ndim == 2:
        image = image[..., None]
    found = image.shape[2]
    if image.dtype not in (np.uint8, np.uint16, np.float32) or found not in (1, 3, 4):
        raise UserError(
            f"{name} is {image.shape} of {image.dtype}, (height, width, channels): data.resize "
            "converts grey, RGB and RGBA of 8 or 16 bits"
        )
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65,535 → 255
    bounds = (image.min(), image.max()) if image.dtype == np.float32 and found != 4 else None
    if found == 4:
        image = _over_white(image)
    if shape[2] == 1 and image.shape[2] == 3:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    elif shape[2] == 3 and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    image = _cover(image, *shape[:2])
    return np.clip(image, *bounds) if bounds else image  # which rounding leaves by 1e-7


def _over_white(image):
    colours, alpha = image[..., :3], image[..., 3:]
    if image.dtype == np.float32:
        return np.clip(colours * alpha + (1 - alpha), 0, 1)
    colours, alpha = colours.astype(np.uint32), alpha.astype(np.uint32)
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _cover(image, height, width):
    """Crops the centre to the proportions height : width, then scales it."""
    import cv2

    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    scale = max(height / rows, width / columns)
    kept = [min(n, max(1, round(m / scale))) for n, m in ((rows, height), (columns, width))]
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    image = image[top : top + kept[0], left : left + kept[1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)
    return image.reshape(height, width, -1)


def refuse_zero_one(name: str, largest: int | None, remedy: str) -> None:
    """Raises if the largest 8-bit pixel is 1: such images mean 0 and 1, not 0 and 1/255.

    Args:
        name: of the images, for the message.
        largest: the largest pixel of uint8 images; None for images of other types.
        remedy: the advice in the message.
    """
    if largest == 1:
        raise UserError(
            f"{name}: the largest pixel is 1, and in 8 bits white is 255; where 0 and 1 are "
            f"meant, {remedy}"
        )
