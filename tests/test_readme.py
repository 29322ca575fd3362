"""What the README says of settings is what the code reads."""

import re

from soul_store.settings import Settings
from tests.paths import ROOT


def test_the_settings_table_is_complete_and_current() -> None:
    rows = re.findall(r"^\| `(SOUL_\w+)` \| (.*?) \| (.*?) \|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)

    expected = [
        (
            f"SOUL_{name.upper()}",
            field.description,
            "needed" if field.is_required() else f"`{field.default}`".replace("``", "empty"),
        )
        for name, field in Settings.model_fields.items()
    ]
    assert rows == expected


def test_the_map_names_folders_that_exist() -> None:
    section = (ROOT / "README.md").read_text().split("## The map")[1].split("\n## ")[0]

    for name in re.findall(r"^\| `(\w+)/`", section, flags=re.MULTILINE):
        assert (ROOT / name).is_dir(), name
