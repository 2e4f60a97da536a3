"""Old names of commands and options. They work in this release, but no help shows them. Then delete this file."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

OLD_COMMANDS = {
    "bench": {
        "kills": "store-crash",
        "recipe": "optimizer",
        "shelf": "bundled",
        "step": "step-profile",
        "store": "store-scale",
    },
}
"""{group: {old name: new name}}."""
OLD_OPTIONS = {
    "bench": {
        "bundled": {"--ways": "--trajectories"},
        "horizon": {"--aim": "--target", "--beside": "--compare-with", "--known": "--resume-from"},
    },
    "memlab": {"capacity": {"--passes": "--token-budget"}},
}
"""{group: {command: {old option: new option}}}."""


class RenamedGroup(TyperGroup):
    """A group of commands that replaces old names by new ones before it parses them, with a note on stderr."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        group = self.name or ""
        name = _new_name(args[0], OLD_COMMANDS.get(group, {}))
        options = OLD_OPTIONS.get(group, {}).get(name, {})
        last = args.index("--") if "--" in args else len(args)
        return super().resolve_command(
            ctx, [name, *(_new_name(arg, options) for arg in args[1:last]), *args[max(last, 1) :]]
        )


def _new_name(arg: str, names: dict[str, str]) -> str:
    old, equals, value = arg.partition("=")
    if old not in names:
        return arg
    typer.echo(f"memlab: note: {old} is now called {names[old]}", err=True)
    return f"{names[old]}{equals}{value}"
