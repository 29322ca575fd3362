"""Where the project and the shared folder beside its checkout lie, whatever folder a test stands in."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
