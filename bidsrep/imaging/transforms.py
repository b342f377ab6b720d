"""Linear transforms on disk: ITK text, as ANTs, 3D Slicer, ITK-SNAP and nitransforms read them.

In memory a transform is a (4, 4) matrix that maps RAS+ mm of the fixed (reference) image to RAS+ mm
of the moving image: the direction in which images are resampled. ITK stores the same map in LPS+ mm.
"""

import re
from os import PathLike
from pathlib import Path

import numpy as np

from bidsrep.errors import InputError
from bidsrep.imaging._write import write_whole

NOT_LINEAR = "{}: is not one linear ITK text transform ({}). Give a rigid or affine transform as .txt or .tfm"

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse
_HEADER = "#Insight Transform File V1.0\n"


def write_itk(path: str | PathLike[str], matrix: np.ndarray) -> Path:
    """Write a matrix (4, 4; fixed to moving, RAS+ mm) as an ITK text transform.

    Numbers are written so that they are read back bit by bit; the file appears whole or not at all.
    """
    lps = _LPS @ np.asarray(matrix, dtype=float) @ _LPS
    lps = lps + 0.0  # no "-0.0"
    numbers = " ".join(repr(float(n)) for n in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    text = (
        f"{_HEADER}#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    path = Path(path)
    write_whole(path, text.encode())
    return path


def read_itk(path: str | PathLike[str]) -> np.ndarray:
    """Read a linear ITK text transform as (4, 4), fixed to moving, RAS+ mm.

    Understands affine, translation, Euler (angles) and versor (quaternion) types.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(NOT_LINEAR.format(path, error)) from error
    kinds = re.findall(r"^Transform:\s*(\w+)", text, re.MULTILINE)
    if len(kinds) != 1:
        raise InputError(NOT_LINEAR.format(path, f"it holds {len(kinds)} transforms"))
    parameters, fixed = _numbers(text, "Parameters"), _numbers(text, "FixedParameters")
    try:
        return from_itk_parameters(kinds[0], parameters, fixed)
    except ValueError as error:
        raise InputError(NOT_LINEAR.format(path, error)) from error


def from_itk_parameters(kind: str, parameters: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Turn an ITK transform's parameters into (4, 4), fixed to moving, RAS+ mm.

    ITK maps a point x to ``A (x - c) + t + c`` with the centre c in the fixed parameters
    (ITK Software Guide, itk::MatrixOffsetTransformBase).
    """
    rotation, translation = _split(kind, np.asarray(parameters, dtype=float))
    center = np.asarray(fixed, dtype=float)[:3] if len(fixed) >= 3 else np.zeros(3)
    lps = np.eye(4)
    lps[:3, :3] = rotation
    lps[:3, 3] = translation + center - rotation @ center
    if not np.isfinite(lps).all() or abs(np.linalg.det(rotation)) < 1e-6:
        msg = "it is singular or not finite"
        raise ValueError(msg)
    return _LPS @ lps @ _LPS


def rotation_deg(matrix: np.ndarray) -> float:
    """Return the angle of a rigid matrix (4, 4), in degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


def displacement_mm(one: np.ndarray, two: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how far two matrices (4, 4) carry the same points (N, 3; mm) apart: (N,), mm."""
    apart = points @ (one[:3, :3] - two[:3, :3]).T + (one[:3, 3] - two[:3, 3])
    return np.sqrt((apart**2).sum(axis=1))


def _numbers(text: str, field: str) -> np.ndarray:
    match = re.search(rf"^{field}:(.*)$", text, re.MULTILINE)
    try:
        return np.array([float(n) for n in match.group(1).split()]) if match else np.empty(0)
    except ValueError:
        return np.empty(0)


def _split(kind: str, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (3, 3) matrix and the (3,) translation that a type's parameters stand for."""
    if not kind.endswith("_3_3"):
        msg = f"its type is {kind}"
        raise ValueError(msg)
    name = kind.split("_")[0]
    affine = name in ("AffineTransform", "MatrixOffsetTransformBase", "Rigid3DTransform")
    if affine and len(parameters) == 12:
        return parameters[:9].reshape(3, 3), parameters[9:]
    if name == "TranslationTransform" and len(parameters) == 3:
        return np.eye(3), parameters
    if name == "Euler3DTransform" and len(parameters) in (6, 7):
        return _euler(*parameters[:3]), parameters[3:6]
    if name in ("VersorRigid3DTransform", "Similarity3DTransform") and len(parameters) in (6, 7):
        scale = parameters[6] if name == "Similarity3DTransform" else 1.0
        return scale * _versor(parameters[:3]), parameters[3:6]
    msg = f"its type is {kind} with {len(parameters)} parameters"
    raise ValueError(msg)


def _euler(x: float, y: float, z: float) -> np.ndarray:
    """Compose ITK's Euler angles (radians): Rz Rx Ry, the default order of itk::Euler3DTransform."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ rx @ ry


def _versor(vector: np.ndarray) -> np.ndarray:
    """Turn the vector part of a unit quaternion (3,) into its rotation (3, 3)."""
    x, y, z = vector
    w = np.sqrt(max(0.0, 1.0 - float(vector @ vector)))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
