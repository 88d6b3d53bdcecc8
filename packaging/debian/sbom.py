"""The list of a package's components (CycloneDX 1.5): Python distributions and the models that it carries."""

from __future__ import annotations

import email.parser
import email.policy
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

_MODELS = (".onnx", ".tflite", ".xml", ".bin")
"""Names of model files, looked for in edgekit's own folder: those that ``doctor`` proves a backend with."""


def component(folder: Path) -> dict[str, str]:
    """Return name, version and licence of an installed distribution, from its ``.dist-info``."""
    parser = email.parser.Parser(policy=email.policy.compat32)
    metadata = parser.parsestr((folder / "METADATA").read_text("utf-8"), headersonly=True)
    classified = [
        c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")
    ]
    stated = str(metadata.get("License-Expression") or "").strip() or ", ".join(classified)
    stated = stated or str(metadata.get("License") or "").strip().partition("\n")[0] or "see its folder"
    return {"name": str(metadata["Name"]), "version": str(metadata["Version"]), "license": stated}


def write_bill(
    name: str, version: str, when: datetime, distributions: list[dict[str, str]], site: Path, path: Path
) -> None:
    """Write the list of a package whose environment is ``site``; the same content gives the same bytes."""
    models = sorted(file for file in (site / "edgekit").rglob("*") if file.suffix in _MODELS)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": when.isoformat().replace("+00:00", "Z"),
            "component": {"type": "application", "name": name, "version": version},
        },
        "components": [*map(_library, distributions), *(_model(file, site, version) for file in models)],
    }
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")


def _library(row: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "library",
        "name": row["name"],
        "version": row["version"],
        "purl": f"pkg:pypi/{row['name'].lower().replace('_', '-')}@{row['version']}",
        "licenses": [{"license": {"name": row["license"]}}],
    }


def _model(file: Path, site: Path, version: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "name": str(file.relative_to(site)),
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(file.read_bytes()).hexdigest()}],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
