"""Checks for packages that a smaller installation, such as soul-unlearning[client], does not have."""

from collections.abc import Sequence
from importlib.util import find_spec

from soul_cli.errors import BadInput

ENGINE_PACKAGES = ("torch", "transformers")
#: One package of each part of the service.
SERVICE_PACKAGES = ("fastapi", "celery", "sqlalchemy", *ENGINE_PACKAGES)


def require_packages(packages: Sequence[str], *, extra: str) -> None:
    """Raise BadInput, with the pip command that installs `extra`, if any of the packages is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise BadInput(f"this command needs {', '.join(missing)}: pip install 'soul-unlearning[{extra}]'")
