"""The version of gradscope that runs here, as a hello and a welcome tell it."""

import importlib

__all__ = ["installed_version"]


def installed_version() -> str:
    """Return the version of the package around this room.

    Asked at run time, because no room imports the façade, and not of the installed metadata, which
    takes longer to read than a hub to start.
    """
    version: str = importlib.import_module("gradscope").__version__
    return version
