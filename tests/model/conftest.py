import hashlib
import json
from pathlib import Path

import pytest

import edgekit.backends.tiny


@pytest.fixture
def model_of_two(tmp_path):
    """A bundle of real files: the variants ``fast`` and ``spare``, of which ``fast`` is chosen."""
    data = (Path(edgekit.backends.tiny.__file__).parent / "relu.tflite").read_bytes()
    variants = []
    for name in ("fast", "spare"):
        (tmp_path / f"{name}.tflite").write_bytes(data)
        file = {"path": f"{name}.tflite", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        variants.append({"id": name, "backend": "litert", "files": [file]})
    document = {"format": 1, "model": "net", "version": "1.0.0", "task": "raw", "inputs": [], "outputs": []}
    (tmp_path / "bundle.json").write_text(json.dumps(document | {"variants": variants}))
    return tmp_path
