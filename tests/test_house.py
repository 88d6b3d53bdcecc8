"""The structure of the code: no circles, one owner for each vendor library, functions that fit a page."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from house import body_lines, circles, package_of, read_house, sibling_arrows

MAX_BODY_LINES = 40

# Vendor library: the file or package that owns it, in each distribution that uses it.
OWNERS = {
    "asyncua": ("edgekit.pipeline.sinks.opcua",),
    "ai_edge_litert": ("edgekit.backends", "edgekit_optimize.graph", "edgekit_optimize.zoo.tiny_model"),
    "av": ("edgekit.pipeline.libav",),
    "cryptography": (
        "edgekit.update",
        "edgekit_fleet.identity",
        "edgekit_fleet.registry",
        "edgekit_fleet.broker",
        "edgekit_fleet.simulator.identities",
    ),
    "cv2": ("edgekit.pipeline.pre", "edgekit_optimize.data", "edgekit_optimize.zoo"),
    "gpiod": ("edgekit.pipeline.sinks.gpio",),
    "jinja2": ("edgekit_fleet.ui.site",),
    "litert_quantizer": ("edgekit_optimize.makers.litert_tools",),
    "nats": (
        "edgekit_fleet.broker.nats_thread",
        "edgekit_fleet.broker.admission",
        "edgekit_fleet.broker.nats_downlink",
        "edgekit_fleet.ingest.jetstream",
    ),
    "nncf": ("edgekit_optimize.makers.openvino",),
    "onnxruntime": ("edgekit.backends.onnxruntime", "edgekit_optimize.makers"),
    "openvino": (
        "edgekit.backends.openvino",
        "edgekit_optimize.graph.openvino_ir",
        "edgekit_optimize.makers.openvino",
    ),
    "paho": ("edgekit.sync.connection", "edgekit.pipeline.sources.mqtt", "edgekit_fleet.broker.mqtt"),
    "picamera2": ("edgekit.pipeline.sources.picamera2",),
    "pyarrow": ("edgekit.pipeline.sources.table",),
    "pymodbus": ("edgekit.pipeline.sources.modbus",),
    "securesystemslib": ("edgekit_fleet.registry.trust",),
    "segno": ("edgekit.cli.qr",),
    "serial": ("edgekit.pipeline.sources.serial",),
    "smbus2": ("edgekit.pipeline.sources.i2c",),
    "sounddevice": ("edgekit.pipeline.sources.audio",),
    "soundfile": ("edgekit.pipeline.sources.audio",),
    "torch": ("edgekit_optimize.shrink", "edgekit_optimize.readers"),
    "tuf": ("edgekit.update.trust", "edgekit_fleet.registry.trust"),
    "uvicorn": ("edgekit.serve.server", "edgekit_fleet.cli.serve"),
}

_SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def house():
    return read_house()


def test_no_circle_of_files(house):
    found = circles({name: module.imports for name, module in house.items()})
    assert not found, f"circles of files: {found}"


def test_no_circle_of_packages_at_any_depth(house):
    found = sorted(
        (room, circle) for room, arrows in sibling_arrows(house).items() for circle in circles(arrows)
    )
    assert not found, f"circles of packages: {found}"


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_body_is_longer_than_forty_lines(house):
    found = {
        name for module in house.values() for name, lines in body_lines(module) if lines > MAX_BODY_LINES
    }
    assert found == set()


def test_every_package_says_what_it_is_for(house):
    silent = [
        module.name for module in house.values() if module.is_package and not ast.get_docstring(module.tree)
    ]
    assert silent == []


def test_each_vendor_library_is_imported_by_its_owners_only(house):
    found = set()
    for module in house.values():
        for library in _imported(module.tree) & OWNERS.keys():
            if not any(
                module.name == owner or module.name.startswith(owner + ".") for owner in OWNERS[library]
            ):
                found.add((library, module.name))
    assert found == set()


def test_there_is_one_http_client(house):
    clients = {"http.client", "urllib.request", "urllib.error", "httpx", "requests", "urllib3"}
    found = set()
    for module in house.values():
        for node in ast.walk(module.tree):
            names = {node.module} if isinstance(node, ast.ImportFrom) else set()
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            found |= {module.name} if names & clients else set()
    assert found == {"edgekit.base.http"}


def _imported(tree):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def test_sql_stands_in_the_fleets_store_and_the_devices_sync_only(house):
    # the last one's file is the user's own: a result like a line of the jsonl sink
    allowed = ("edgekit_fleet.store", "edgekit.sync", "edgekit.pipeline.sinks.sqlite")
    found = set()
    for module in house.values():
        if module.name.startswith(allowed):
            continue
        strings = (node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant))
        if any(isinstance(text, str) and _SQL.search(text) for text in strings):
            found.add(module.name)
    assert found == set()


def test_the_device_has_no_arrow_to_the_kit_or_the_fleet(house):
    arrows, rooms = defaultdict(set), set()
    for module in house.values():
        distribution = module.name.split(".")[0]
        arrows[distribution] |= {target.split(".")[0] for target in module.imports}
        if distribution == "edgekit_fleet":
            rooms |= {package_of(house[target]) for target in module.imports if target.startswith("edgekit.")}
    assert arrows["edgekit"] == {"edgekit"}
    assert arrows["edgekit_optimize"] <= {"edgekit", "edgekit_optimize"}
    assert rooms <= {"edgekit.base", "edgekit.core"}


def test_files_of_tests_have_names_of_their_own():
    """Pytest imports those of folders without ``__init__.py`` by name alone: the second is an error."""
    folder = Path(__file__).parent
    names = Counter(
        path.stem for path in folder.rglob("test_*.py") if not (path.parent / "__init__.py").exists()
    )
    assert [name for name, count in names.items() if count > 1] == []
