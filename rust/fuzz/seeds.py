"""Fills corpus/ from the archives in tests/data: run this before ``cargo fuzz``."""

import json
import shutil
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "tests" / "data"


def main():
    corpus = {target: HERE / "corpus" / target for target in ("index", "directory", "header", "snapshot")}
    for folder in corpus.values():
        folder.mkdir(parents=True, exist_ok=True)
    (HERE / "corpus" / "lookup").mkdir(parents=True, exist_ok=True)
    expected = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
    for file, entry in expected.items():
        for target in ("index", "directory", "snapshot"):
            shutil.copy(DATA / file, corpus[target])
        for number, (name, array) in enumerate((entry.get("arrays") or {}).items()):
            if array.get("refused") != "zip":
                with zipfile.ZipFile(DATA / file) as archive:
                    (corpus["header"] / f"{file}-{number}").write_bytes(archive.read(f"{name}.npy"))


if __name__ == "__main__":
    main()
