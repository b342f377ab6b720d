"""Which code this is: version, commit, hash of the source, container image, and the libraries beside it."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bidsrep

COMMIT, IMAGE_DIGEST = "BIDSREP_COMMIT", "BIDSREP_IMAGE_DIGEST"
"""Variables a container image sets: what it was built from, and its digest, which cannot be seen from inside."""
SOURCE = ("*.py", "*.json", "*.toml", "*.tsv", "*.yml", "*.yaml", "*.html", "*.css")
PACKAGES = (
    "antspyx",
    "isal",
    "monai",
    "nibabel",
    "nilearn",
    "nipype",
    "nireports",
    "nitransforms",
    "niworkflows",
    "numpy",
    "pandas",
    "safetensors",
    "scipy",
    "torch",
)
GIT_TIMEOUT_S = 10


@cache
def describe_code() -> dict[str, Any]:
    """Say which code runs: version and hash of the source; commit and image digest where they are known."""
    found = {"Version": bidsrep.__version__, "SourceSHA256": source_hash(), **_commit()}
    digest = image_digest()
    return found | ({"ImageDigest": digest} if digest else {})


@cache
def source_hash() -> str:
    """Hash the package's code and tables, without its weights, which have hashes of their own."""
    digest = hashlib.sha256()
    for name in ("bidsrep", "bidsrep.workflows"):
        spec = find_spec(name)
        for folder in map(Path, (spec.submodule_search_locations if spec else None) or ()):
            files = {path for pattern in SOURCE for path in folder.rglob(pattern)}
            own = (
                path for path in files if path.relative_to(folder).parts[0] != "workflows"
            )  # installed inside
            for path in sorted(path for path in own if path.parent.name != "weights"):
                digest.update(f"{name}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def image_digest() -> str | None:
    """Give the digest of the container image, ``sha256:...``, if the environment tells it."""
    found = re.search(r"sha256:[0-9a-f]{64}", os.environ.get(IMAGE_DIGEST, ""))
    return found[0] if found else None


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Give the versions of packages, by default of those that compute the results; what is not there is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> dict[str, Any]:
    """Give the commit, and whether the files differ from it; nothing where no one knows."""
    if given := os.environ.get(COMMIT):
        return {"Commit": given}
    root = Path(bidsrep.__file__).parents[1]
    git = shutil.which("git") if (root / ".git").exists() else None
    if git is None:
        return {}
    answers = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "bidsrep", "workflows"]):
        try:
            asked = subprocess.run(
                [git, "-C", str(root), *question],
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT_S,
                check=True,
                env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # it only looks
            )
        except (OSError, subprocess.SubprocessError):
            return {}
        answers.append(asked.stdout.strip())
    return {"Commit": answers[0], "Modified": bool(answers[1])}
