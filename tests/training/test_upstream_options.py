"""Every option of upstream's training script is accounted for in the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

from iepile_cli.fields import option_fields
from iepile_cli.training.options import TrainOptions

DOCUMENT = Path(__file__).parents[2] / "docs" / "coming-from-iepile.md"


def page() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_every_option_of_upstream_is_named(shared: Path) -> None:
    declared = json.loads((shared / "vectors" / "args_defaults.json").read_text("utf-8"))
    names = {name for group in declared.values() for name in group.get("fields", {})}
    assert len(names) > 70
    named = set(re.findall(r"[a-z_0-9]+", page()))
    assert names - named == set()


def test_the_table_leads_to_options_that_exist() -> None:
    rows = [line.split("|") for line in page().splitlines() if line.startswith("| `--")]
    assert len(rows) > 30
    ours = {item.name.replace("_", "-") for item in option_fields(TrainOptions)}
    ours |= {"no-" + name for name in ours}
    for row in rows:
        if "download" in row[2]:
            continue
        for flag in re.findall(r"--([a-z0-9-]+)", row[2]):
            assert flag in ours, row[2]
