"""The page of models with a latent space: its table of settings is that of the configs, and its example runs."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import scbayes as sb
from scbayes.models._latent_config import FactorsConfig, VAEConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "latent.md"


def test_every_setting_is_in_the_table_with_its_default():
    section = PAGE.read_text(encoding="utf-8").split("\n## Settings\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row[1:] for row in rows}
    assert len(table) == len(rows) > 15
    for column, config in enumerate((VAEConfig, FactorsConfig)):
        own = {field.name: repr(field.default).replace("'", '"') for field in fields(config) if field.name != "ambient"}
        said = {name: row[column].strip("`") for name, row in table.items() if row[column] != "–"}
        assert said == own
    assert set(table) == {field.name for config in (VAEConfig, FactorsConfig) for field in fields(config)} - {"ambient"}
    assert [name for name, row in table.items() if len(row[2]) < 10] == [], "a setting without a meaning"


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = sb.datasets.pancreas()[::6].copy()
    monkeypatch.setattr(sb.datasets, "pancreas", few.copy)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    adata, new_cells = names["adata"], names["new_cells"]
    assert {"X_sb", "X_vae"} <= set(adata.obsm)
    assert new_cells.obsm["X_vae"] == pytest.approx(adata[new_cells.obs_names].obsm["X_vae"], abs=1e-5)
