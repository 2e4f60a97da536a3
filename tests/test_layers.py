"""The layers of ``memlab/README.md``: imports go down only, lazy ones too, and no two modules import each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "memlab"
LAYERS = (
    ("cli", "panels", "pages"),
    ("experiments",),
    ("sweeps",),
    ("training",),
    ("probes",),
    ("decoding",),
    ("scoring",),
    ("models",),
    ("results",),
    ("measures", "charts", "recipes", "stop_rules", "texts", "errors", "_version"),
)
"""From the top down. A room imports from its own layer or from a lower one."""
ORDER = {room: level for level, rooms in enumerate(reversed(LAYERS)) for room in rooms}
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def imports(name: str, *, lazy: bool = True) -> set[str]:
    """The memlab modules that a module imports; with ``lazy`` also those inside functions and for type checkers."""
    found = set()
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            target = full
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            if target not in ("", "memlab", name):
                found.add(target)
    return found


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "memlab"])
def test_imports_go_down_only(name):
    upward = {other for other in imports(name) if ORDER[room(other)] > ORDER[room(name)]}
    assert not upward, f"{name} imports from a higher layer: {sorted(upward)}"


def test_rooms_of_one_layer_do_not_import_each_other_in_a_circle():
    """Neither rooms nor modules form a circle."""
    for graph in (
        {name: imports(name) for name in MODULES if name != "memlab"},
        {
            one: {room(o) for n in MODULES if n != "memlab" and room(n) == one for o in imports(n)} - {one}
            for one in ORDER
        },
    ):
        state: dict[str, int] = {}

        def visit(node: str, path: tuple[str, ...], graph: dict = graph, state: dict = state) -> None:
            assert state.get(node) != 1, f"a circle of imports: {' > '.join([*path[path.index(node) :], node])}"
            if node not in state:
                state[node] = 1
                for other in sorted(graph.get(node, ())):
                    visit(other, (*path, node))
                state[node] = 2

        for node in graph:
            visit(node, ())


def test_no_torch_below_the_models():
    """``results`` and all that is below it can be imported, and a store listed, without waiting for torch."""
    for name, file in MODULES.items():
        if name != "memlab" and ORDER[room(name)] <= ORDER["results"]:
            names = {n for node in ast.walk(ast.parse(file.read_text())) for n in _outside(node)}
            assert not names & {"torch", "transformers"}, name


def _outside(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


def test_every_room_has_a_layer():
    assert {room(name) for name in MODULES if name != "memlab"} == set(ORDER)


def test_no_file_is_too_long_to_read_in_one_sitting():
    long = {name: n for name, file in MODULES.items() if (n := len(file.read_text().splitlines())) > 350}
    assert not long
