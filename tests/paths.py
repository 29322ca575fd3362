"""The folders of the project and of the shared inputs, for tests in any folder."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
