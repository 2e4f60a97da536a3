"""Documentation and command line agree: every option is documented, and every documented command parses."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from memlab.cli import app
from memlab.cli.old_names import OLD_COMMANDS, OLD_OPTIONS

ROOT = Path(__file__).parents[1]
README = ROOT / "memlab" / "cli" / "README.md"
GROUP = typer.main.get_command(app)
STOP = ("|", ">", "&&", ";", "&")
"""Words of the shell that end a command."""


def visible(group=GROUP, path="memlab"):
    """{full name: command} of what the help shows, groups without."""
    found = {}
    for name, command in group.commands.items():
        if not command.hidden:
            full = f"{path} {name}"
            found |= visible(command, full) if hasattr(command, "commands") else {full: command}
    return found


COMMANDS = visible()


def options(command):
    """Names such as --tokens and -n of all options that the help shows."""
    shown = [p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden]
    return [name for p in shown for name in p.opts]


def sections():
    """{command: its section of the command line's README}, by headings such as ### `memlab cram FILE...`."""
    parts = re.split(r"^#{2,3} (.*)$", README.read_text(), flags=re.MULTILINE)
    found = {}
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        if title.startswith("`memlab"):
            words = re.match(r"`(memlab(?: [a-z-]+)+)", title)
            assert words, title
            found[words.group(1)] = text
    return found


def test_the_readme_has_every_command_and_no_other():
    assert set(sections()) == set(COMMANDS)


def line(parameter):
    """The line of an option or argument in the README."""
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    else:
        names = sorted(parameter.opts, key=lambda name: name.startswith("--"))
    default = f" [default: {parameter.default}]" if parameter.default not in (None, False) else ""
    return f"- {', '.join(f'`{name}`' for name in names)}: {parameter.help}{default}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_as_the_help_says_it(name):
    documented = [text for text in sections()[name].splitlines() if text.startswith("- ")]
    assert documented == [
        line(p) for p in COMMANDS[name].params if not getattr(p, "hidden", False) and p.name != "help"
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_a_help_text(name):
    command = COMMANDS[name]
    assert command.help
    assert not [p.name for p in command.params if p.name != "help" and not p.help]


# Commands in documentation ---------------------------------------------------------------------------------------


def in_markdown(text):
    """(command, whether it is complete): lines of code blocks are, spans within a sentence may be a name only."""
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for block in fences:
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*(?:[$!] ?)?(?:[A-Z_]+=\S+ )*(memlab .*)", line):
                yield match.group(1), True
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from in_spans(rest)


def in_spans(text):
    for _, span in re.findall(r"(`{1,2})(?:[A-Z_]+=\S+ )*(memlab\s[^`]+)\1", text):
        yield " ".join(span.split()), False


def documented():
    """(file, command, complete) of all Markdown files, notebooks, the Makefile, and strings in the code."""
    for file in sorted(ROOT.rglob("*.md")):
        if not any(part.startswith(".") for part in file.relative_to(ROOT).parts):
            yield from ((file, *found) for found in in_markdown(file.read_text()))
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(file.read_text())["cells"]:
            text = "".join(cell["source"])
            text = text if cell["cell_type"] == "markdown" else f"```\n{text}\n```"
            yield from ((file, *found) for found in in_markdown(text))
    yield from (
        (ROOT / "Makefile", line, True)
        for line in re.findall(r"^\t\$\(BIN\)/(memlab .*)", (ROOT / "Makefile").read_text(), re.M)
    )
    for file in sorted([*(ROOT / "memlab").rglob("*.py"), *(ROOT / "tests").glob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from ((file, *found) for found in in_spans(node.value))


def parse(command, *, complete=True):
    """Let the real parser read a command by its present names. Nothing is run."""
    words = [word for word in shlex.split(command, comments=True) if word not in ("...", "…")]
    words = words[1 : next((i for i, word in enumerate(words) if word in STOP), len(words))]
    current = GROUP
    while hasattr(current, "commands") and words and words[0] != "--version":
        if not complete and words[0].isupper():  # a placeholder: memlab bench NAME
            return
        if words[0] not in current.commands:
            raise ValueError(f"there is no command {words[0]!r}")
        current = current.commands[words.pop(0)]
    if not hasattr(current, "commands") and "--help" not in words:
        only_a_name = not complete and not [word for word in words if not word.startswith("-")]
        current.make_context(command, words, resilient_parsing=only_a_name)


def test_every_documented_command_parses():
    count, wrong = 0, []
    for place, command, complete in documented():
        count += 1
        try:
            parse(command, complete=complete)
        except Exception as error:
            wrong.append(f"{place.relative_to(ROOT)}: {command}: {error}")
    assert not wrong, "\n".join(wrong)
    assert count > 40


def test_no_old_name_of_a_bench_command_is_left():
    """Also where a command is named without backticks, as in error messages."""
    bench = GROUP.commands["bench"].commands
    for folder, pattern in (("memlab", "*.py"), ("memlab", "*.md"), ("notebooks", "*.ipynb")):
        for file in (ROOT / folder).rglob(pattern):
            for name in re.findall(r"memlab bench ([a-z-]+[a-z])", file.read_text()):
                assert name in bench, f"{file.relative_to(ROOT)}: memlab bench {name}"


@pytest.mark.parametrize(
    "command",
    [
        "memlab crom x.txt",
        "memlab cram x.txt --toekns 3",
        "memlab cram -n three x.txt",
        "memlab bench shelf",
        "memlab run",
    ],
)
def test_a_wrong_command_does_not_parse(command):
    with pytest.raises(Exception):  # noqa: B017, PT011  # click's, of whichever version
        parse(command)


# Old names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "old"), [(group, old) for group, names in OLD_COMMANDS.items() for old in names])
def test_an_old_command_still_works_but_is_not_shown(group, old):
    new = OLD_COMMANDS[group][old]
    result = CliRunner().invoke(app, [group, old, "--help"])
    assert result.exit_code == 0
    assert f"{group} {new} [OPTIONS]" in " ".join(result.stdout.split())
    assert result.stderr == f"memlab: note: {old} is now called {new}\n"
    assert f"memlab {group} {old}" not in COMMANDS
    assert f"memlab {group} {new}" in COMMANDS


def test_an_old_command_runs(tmp_path):
    result = CliRunner().invoke(app, ["bench", "store", "--entries", "3", "--folder", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output
    assert "entries: 3" in result.stdout


@pytest.mark.parametrize(
    ("group", "command", "old"),
    [(g, c, old) for g, commands in OLD_OPTIONS.items() for c, names in commands.items() for old in names],
)
@pytest.mark.parametrize("form", ["{old} 7", "{old}=7"])
def test_an_old_option_still_works_but_is_not_shown(group, command, old, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("7").touch()  # an option that takes a file wants one that is there
    new = OLD_OPTIONS[group][command][old]
    owner = GROUP if group == "memlab" else GROUP.commands[group]
    context = owner.make_context(group, [command], resilient_parsing=True)
    name, resolved, words = owner.resolve_command(context, [command, *form.format(old=old).split()])
    values = resolved.make_context(name, words).params
    assert str(values[new.removeprefix("--").replace("-", "_")]) == "7"
    assert old not in options(resolved)
    assert new in options(resolved)


def test_a_value_after_two_dashes_is_not_renamed():
    owner = GROUP.commands["bench"]
    context = owner.make_context("bench", ["horizon"], resilient_parsing=True)
    assert owner.resolve_command(context, ["horizon", "--", "--aim"])[2] == ["--", "--aim"]
