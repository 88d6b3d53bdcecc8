import inspect
import re

from edgekit.core import errors


def test_the_drawn_tree_is_the_tree_of_classes():
    drawn = re.findall(r"(\w+Error)\s+(\d)\s+([\w.]+)", errors.__doc__)
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.EdgekitError)
    ]
    assert {(c.__name__, str(c.exit_code), c.code) for c in classes} == set(drawn)


def test_the_drawn_indentation_is_the_inheritance():
    parents = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"([ │├└─]*)(\w+Error)", line)
        if not found:
            continue
        depth = len(found.group(1)) // 4 - 1
        del parents[depth:]
        if depth:
            assert getattr(errors, found.group(2)).__base__.__name__ == parents[-1]
        parents.append(found.group(2))


def test_an_error_renders_its_reasons_way_out_and_code():
    error = errors.NoVariantError("no variant", reasons=("a: needs b",), hint="publish one")
    assert error.render().splitlines() == [
        "no variant",
        "  a: needs b",
        "  fix: publish one",
        "  code: model.no_variant",
    ]


def test_an_error_on_one_line_keeps_its_reasons_and_way_out():
    error = errors.NoVariantError("no variant", reasons=("a: needs b", "c: needs d"), hint="publish one")
    assert error.one_line() == "no variant; a: needs b; c: needs d (fix: publish one)"
    assert errors.ModelError("only a message").one_line() == "only a message"
