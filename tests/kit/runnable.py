"""Examples and the TOML of the documentation, made to run here: a tiny model, and other addresses."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def write_image_bundle(folder):
    """Write a classifier of images on the null backend; return its folder."""
    folder.mkdir(exist_ok=True)
    script = {
        "inputs": {"image": {"datatype": "FP32", "shape": [1, 8, 8, 3]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.2, 0.8]]}},
    }
    manifest = {
        "format": 1,
        "model": "tiny",
        "version": "1.0.0",
        "task": "classify",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "layout": "NHWC"}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
        "post": {"decoder": "classify"},
        "variants": [{"id": "null", "backend": "null", "options": script}],
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def documented(heading, page="docs/pipelines.md"):
    """Return the first TOML of a page's section."""
    section = (
        (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    )
    return section.partition("```toml\n")[2].partition("```")[0]


def runnable(text, folder, changes):
    """Write a pipeline's text with each ``changes`` key (part of the text) replaced; return its file.

    It gets a tiny model, and a table ``[pipeline]`` where it has none.
    """
    bundle = write_image_bundle(folder / "tiny.bundle")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    lines = [line for line in text.splitlines() if not line.startswith("model =")]
    if "[pipeline]" not in lines:
        lines = ["[pipeline]", 'name = "documented"', *lines]
    at = lines.index("[pipeline]") + 1
    path = folder / "pipeline.toml"
    path.write_text("\n".join([*lines[:at], f'model = "{bundle}"', *lines[at:]]) + "\n", encoding="utf-8")
    return path
