"""The documentation runs: its Python is executed, its commands and settings exist, its links lead somewhere.

`python tests/test_docs.py` writes docs/cli.md and docs/settings.md again: from the commands' help, and from the default
recipe.
"""

from __future__ import annotations

import doctest
import importlib
import itertools
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import multistream
from multistream.cli import app
from multistream.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    return [block for named, block in found if named == language]


def walk(command, name: str) -> Iterator[tuple[str, object]]:  # type: ignore[no-untyped-def]
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{name} {child}")


def rendered() -> str:
    """docs/cli.md, from the commands' own help."""
    lines = ["# Command line", "", "Results go to stdout, progress and messages to stderr.", ""]
    for name, command in walk(COMMANDS, "multistream"):
        lines += [f"## {name}", "", (command.help or "").strip(), ""]  # type: ignore[attr-defined]
        rows = []
        for parameter in command.params:  # type: ignore[attr-defined]
            names = ", ".join(
                f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts) if option != "--help"
            )
            if parameter.param_type_name == "argument":
                names = f"`{parameter.metavar or parameter.name.upper()}`"
            if names:
                rows.append(f"| {names} | {(getattr(parameter, 'help', '') or '').replace('|', chr(92) + '|')} |")
        lines += ["| option | meaning |", "|---|---|", *rows, ""] if rows else []
        if command.epilog:  # type: ignore[attr-defined]
            lines += ["```console", command.epilog.removeprefix("Example: "), "```", ""]  # type: ignore[attr-defined]
    lines += [
        "## Exit codes",
        "",
        "0 ok; 1 a failed check (`test-explanation`, `ablate --verify`), or an unexpected error, shown with a "
        "traceback; 2 usage or recipe; 65 data; "
        "69 weights or plugin missing or broken; "
        "70 diverged; 71 out of memory, or a worker process, rank or job was lost; "
        "73 run folder busy; 74 disk; 78 cannot resume; 130 Ctrl-C; "
        "141 the reader of the output left, as with `| head`; 143 SIGTERM.",
    ]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md: the default recipe, whose comments say what each setting takes."""
    recipe = (ROOT / "multistream" / "recipe" / "default.toml").read_text()
    return (
        "# Settings\n\n"
        "A recipe is a TOML file with the sections below. `--set SECTION.NAME=VALUE` overrides one setting on the "
        "command line, `--recipe` takes a file, a run or one of the built-in recipes `default`, `paper` and "
        "`paper-code`, and `--print-recipe` prints the resulting recipe. `--set` takes precedence over command-line "
        "options, which take precedence over the recipe.\n\nThe defaults:\n\n"
        f"```toml\n{recipe}```\n"
    )


GENERATED = {"cli.md": rendered, "settings.md": settings_page}


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_current(page: str) -> None:
    expected = GENERATED[page]()
    assert (ROOT / "docs" / page).read_text() == expected, "write it again: python tests/test_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "docs"}  # a page is read from top to bottom
    for code in blocks(page, "python"):
        if 'spec = "sketch"' in code:  # the sketch is installed by tests/test_plugins_command.py
            continue
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    """Every `multistream ...` line parses: the command, its options, and the settings that it sets."""
    for block in blocks(page, "console"):
        for line in re.findall(r"(?:^|/)multistream (.+)$", block, flags=re.M):
            words = shlex.split(line)
            command = COMMANDS
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            known = {option for parameter in command.params for option in parameter.opts}
            for word in words:
                assert not word.startswith("--") or word in known, f"{page.name}: {line}: {word}"
            for setting in [value for flag, value in itertools.pairwise(words) if flag == "--set"]:
                Recipe().with_settings(["network.streams.object=object", "network.streams.anp=anp", setting])


@pytest.mark.slow  # one epoch on the demo set
def test_the_sample_of_explain_is_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's lines, but for the numbers: those are of the whole training."""
    (sample,) = [block for block in blocks(ROOT / "README.md", "") if "method: decomposition" in block]
    photo = multistream.datasets["demo"]().root / sample.partition(":")[0]
    words = "--streams object,places,anp --fusion early --epochs 1 --device cpu --quiet --out"
    COMMANDS.main(["train", *words.split(), str(tmp_path / "run")], standalone_mode=False)
    capsys.readouterr()
    options = ["--target", "fear", "--device", "cpu", "--quiet"]
    COMMANDS.main(["explain", str(tmp_path / "run"), str(photo), *options], standalone_mode=False)
    assert _without_numbers(capsys.readouterr().out) == _without_numbers(sample)


def _without_numbers(text: str) -> list[str]:
    """The lines, from the second on, without numbers; of the vector only its name, for its largest entries differ."""
    lines = [re.sub(r" +[+-]?[.\d]+(e-\d+)?", " #", line) for line in text.strip().splitlines()[1:]]
    return ["anp" if line.startswith("  anp ") else line for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_modules_named_in_the_design_exist() -> None:
    """The walks through the code name files; each must exist."""
    walks = (ROOT / "docs" / "design.md").read_text().partition("## Walks")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_/]+\.py)`", walks)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / "multistream" / name).is_file()] == []


def test_a_walk_names_at_most_fifteen_files() -> None:
    walks = (ROOT / "docs" / "design.md").read_text().partition("## Walks")[2].partition("\n## ")[0].split("\n**")[1:]
    assert len(walks) == 4
    assert max(len(set(re.findall(r"`([a-z_/]+\.py)`", walk))) for walk in walks) <= 15


def modules() -> list[str]:
    return [info.name for info in pkgutil.walk_packages(multistream.__path__, "multistream.")]


@pytest.mark.parametrize("name", modules())
def test_docstrings_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def test_public_names_are_documented() -> None:
    for name in multistream._WHERE:
        assert (getattr(multistream, name).__doc__ or "").strip(), name


if __name__ == "__main__":
    for name, render in GENERATED.items():
        (ROOT / "docs" / name).write_text(render())
