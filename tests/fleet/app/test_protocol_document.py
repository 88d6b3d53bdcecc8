"""``docs/protocol.yaml`` says what ``edgekit.core.wire`` does."""

import importlib.util

import pytest
from fleet_kit import ROOT

from edgekit.core import wire


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_protocol", ROOT / "docs" / "generate_protocol.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_the_one_that_the_code_gives(generator):
    """If this fails: python docs/generate_protocol.py."""
    written = generator.TARGET.read_text()
    assert written == f"# written by docs/generate_protocol.py\n{generator.to_yaml(generator.document())}"


def test_every_topic_is_in_it(generator):
    document = generator.document()
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {
        topic("{device}", leaf)
        for topic, leaves in ((wire.up, wire.UP), (wire.down, wire.DOWN))
        for leaf in leaves
    }
    assert set(document["operations"]) == set(document["channels"])


def test_every_reference_leads_somewhere(generator):
    document = generator.document()

    def check(value):
        if isinstance(value, dict):
            if "$ref" in value:
                found = document
                for step in value["$ref"].removeprefix("#/").split("/"):
                    found = found[step]
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)

    check(document)
