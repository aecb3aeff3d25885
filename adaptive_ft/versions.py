"""What a run was made with: the versions of Python and of the packages that decide its numbers."""

import platform
from importlib import metadata

PACKAGES = ("adaptive-ft", "torch", "transformers", "deepspeed", "numpy")


def versions() -> dict[str, str]:
    """Version by name; a package that is not installed (ours, started from a bare checkout) is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
