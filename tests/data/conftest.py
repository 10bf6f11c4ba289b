import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder():
    """The folder with local copies of public data sets: REMANENT_DATA, or shared/data next to the repository."""
    repository = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("REMANENT_DATA") or repository.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no local copies of public data sets: set REMANENT_DATA to their folder")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: `hub(repository, {config: {split: rows}})` makes a folder that `datasets` loads."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("REMANENT_DATA", raising=False)

    def make(repository, configs):
        folder = tmp_path / repository
        folder.mkdir(parents=True)
        lines = ["---", "configs:"]
        for config, splits in configs.items():
            lines += [f"- config_name: {config}", "  data_files:"]
            for split, rows in splits.items():
                file = f"{config}_{split}.json"
                (folder / file).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
                lines += [f"  - split: {split}", f"    path: {file}"]
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")

    return make
