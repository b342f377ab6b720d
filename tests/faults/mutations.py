"""Damage: to bytes, to NIfTI headers, to gzip streams, to JSON; every draw comes from one seed."""

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (8, 9, 7)
DTYPES = ("u1", "i2", "u2", "i4", "f4", "f8")
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**63 - 1)
REALS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-3,
    1e3,
    1e-30,
    1e30,
    1e-45,
    3.4e38,
    float("nan"),
    float("inf"),
    -float("inf"),
)
WORDS = ("", "a", "n/a", "../..", "sub-01", "<script>", "\x00", "é", "\ud83d\ude00", "=1+1", "*", "a" * 5000)


def image(chance: random.Random) -> bytes:
    """Make the bytes of a small sane NIfTI file: either version, any common type, either byte order."""
    dtype = np.dtype(chance.choice(DTYPES)).newbyteorder(chance.choice("<>"))
    data = np.random.default_rng(chance.randrange(2**32)).uniform(1, 120, SHAPE).astype(dtype)
    kind = nib.Nifti2Image if chance.random() < 0.3 else nib.Nifti1Image
    header = kind.header_class(endianness=dtype.byteorder if dtype.byteorder in "<>" else "<")
    made = kind(data, np.diag([3.0, 3.0, 4.0, 1.0]), header, dtype=dtype)
    made.header.set_xyzt_units("mm")
    return bytes(made.to_bytes())


def damaged_image(chance: random.Random) -> tuple[str, bytes]:
    """Make an image that something happened to, and the name of its file."""
    payload = image(chance)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        payload = chance.choice((odd_field, odd_field, odd_field, odd_bytes, cut, extended))(payload, chance)
    if chance.random() < 0.5:
        return "sub-01_T1w.nii", payload
    packed = chance.choice((plain_gzip, plain_gzip, many_members, odd_gzip_header))(payload, chance)
    for _ in range(chance.choice((0, 0, 1, 2))):
        packed = chance.choice((odd_bytes, cut, extended))(packed, chance)
    return "sub-01_T1w.nii.gz", packed


def odd_field(payload: bytes, chance: random.Random) -> bytes:
    """Put an odd value into a field of the header."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        size = kind.template_dtype.itemsize
        if len(payload) >= size and kind.may_contain_header(payload[:size]):
            break
    else:
        return odd_bytes(payload, chance)
    swapped = int.from_bytes(payload[:4], "little") not in (348, 540)
    content = bytearray(payload)
    order = ">" if swapped else "<"
    header: Any = np.ndarray((), kind.template_dtype.newbyteorder(order), content)
    name = chance.choice(header.dtype.names)
    field = header[name]
    place = chance.randrange(field.size) if field.ndim else ()
    with np.errstate(all="ignore"):
        if field.dtype.kind == "f":
            field[place] = chance.choice((*REALS, chance.uniform(-300, 300)))
        elif field.dtype.kind in "iu":
            limits = np.iinfo(field.dtype)
            field[place] = min(max(chance.choice((*NUMBERS, chance.randrange(2048))), limits.min), limits.max)
        else:
            field[place] = bytes(chance.randrange(256) for _ in range(field.dtype.itemsize))
    return bytes(content)


def odd_bytes(payload: bytes, chance: random.Random) -> bytes:
    """Overwrite some bytes, most of them near the start, where they matter."""
    content = bytearray(payload)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if content:
            end = len(content) if chance.random() < 0.4 else min(len(content), 600)
            content[chance.randrange(end)] = chance.randrange(256)
    return bytes(content)


def cut(payload: bytes, chance: random.Random) -> bytes:
    """Cut something off."""
    keep = chance.randrange(len(payload) + 1)
    return payload[:keep] if chance.random() < 0.8 else payload[keep:]


def extended(payload: bytes, chance: random.Random) -> bytes:
    """Append something, or insert it."""
    more = bytes(chance.randrange(256) for _ in range(chance.choice((1, 16, 600))))
    place = len(payload) if chance.random() < 0.5 else chance.randrange(len(payload) + 1)
    return payload[:place] + more + payload[place:]


def plain_gzip(payload: bytes, chance: random.Random) -> bytes:
    """Compress."""
    return gzip.compress(payload, chance.choice((0, 1, 9)))


def many_members(payload: bytes, chance: random.Random) -> bytes:
    """Compress in pieces, which gzip allows; now and then what is compressed already."""
    place = chance.randrange(len(payload) + 1)
    pieces = [payload[:place], payload[place:]]
    packed = b"".join(map(gzip.compress, pieces))
    return gzip.compress(packed) if chance.random() < 0.2 else packed


def odd_gzip_header(payload: bytes, chance: random.Random) -> bytes:
    """Compress behind a header with any flags, and with any trailer."""
    flags = chance.randrange(256)
    head = b"\x1f\x8b" + bytes((chance.choice((8, 8, 8, 7)), flags)) + bytes(6)
    extra = struct.pack("<H", chance.choice((0, 4, 65535))) + b"abcd" if flags & 4 else b""
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(payload) + packer.flush()
    sizes = (len(payload), 0, 2**32 - 1)
    return head + extra + body + struct.pack("<II", zlib.crc32(payload), chance.choice(sizes))


def damaged_text(text: str, chance: random.Random) -> bytes:
    """Damage a text file as bytes: characters, encodings, length."""
    encoding = chance.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    content = text.encode(encoding, errors="replace")
    for _ in range(chance.choice((0, 1, 2, 5))):
        content = chance.choice((odd_bytes, cut, extended))(content, chance)
    return content


def damaged_json(value: Any, chance: random.Random) -> bytes:
    """Damage JSON: values of other types anywhere, deep nests, and what happens to any text."""
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        value = odd_value(value, chance)
    if chance.random() < 0.05:
        depth = chance.choice((50, 3000, 200_000))
        return b"[" * depth + (b"]" * depth if chance.random() < 0.5 else b"")
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
    return damaged_text(text, chance) if chance.random() < 0.4 else text.encode(errors="replace")


def odd_value(value: Any, chance: random.Random) -> Any:
    """Replace, remove or rename something somewhere in a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        what = chance.random()
        if what < 0.15:
            return rest
        if what < 0.3:
            return {**rest, chance.choice(WORDS): value[key]}
        return {**value, key: odd_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], odd_value(value[place], chance), *value[place + 1 :]]
    return any_value(chance)


def any_value(chance: random.Random) -> Any:
    """Make a JSON value of any type."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: chance.choice((True, False)),
        lambda: chance.choice((*NUMBERS, 10**400)),
        lambda: chance.choice(REALS),
        lambda: chance.choice(WORDS),
        lambda: [any_value(chance) for _ in range(chance.randrange(3))],
        lambda: {chance.choice(WORDS): any_value(chance) for _ in range(chance.randrange(3))},
    )
    return chance.choice(kinds)()
