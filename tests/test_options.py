"""Flags from a dataclass, YAML under flags, and one sentence for wrong input."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from ragcun.cli.parser import parse_config, run_script
from ragcun.errors import InputError
from ragcun.options import flag, read_yaml


@dataclasses.dataclass
class Settings:
    """What the tests parse."""

    name: str = flag(dataclasses.MISSING, "a name that is needed")
    rate: float = flag(0.5, "a rate of 10 %")
    rounds: int = flag(3, "how often")
    layers: int = flag(0, "how many", bare=4, off=0)
    loud: bool = flag(False, "whether to shout")
    safe: bool = flag(True, "whether to be careful")
    limit: float | None = flag(None, "an upper limit")
    colour: str = flag("red", "a colour", choices=("red", "green"))
    place: Path | None = flag(None, "a file", short="where")
    span: tuple[int, int] = flag((0, 9), "two numbers")
    files: tuple[str, ...] = flag((), "files", metavar="FILE", positional=True)

    def __post_init__(self) -> None:
        if self.rounds == 13:
            raise ValueError("13 rounds bring bad luck")


def parsed(*arguments: str) -> Settings:
    return parse_config(Settings, "Try.", ["--name", "n", *arguments])


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ((), {}),
        (("--loud", "--no_safe"), {"loud": True, "safe": False}),
        (("--loud", "True", "--safe", "False"), {"loud": True, "safe": False}),
        (("--loud", "--no_loud"), {}),
        (("--no_loud", "--loud"), {"loud": True}),
        (("--layers",), {"layers": 4}),
        (("--layers", "--loud"), {"layers": 4, "loud": True}),
        (("--layers", "7"), {"layers": 7}),
        (("--layers", "--no_layers"), {}),
        (("--rate", "1e-5"), {"rate": 1e-5}),
        (("--limit", "none"), {}),
        (("--colour", "green"), {"colour": "green"}),
        (("--rate", "-3"), {"rate": -3.0}),
        (("--where", "a/b"), {"place": Path("a/b")}),
        (("--span", "3", "4"), {"span": (3, 4)}),
        (("a", "b"), {"files": ("a", "b")}),
    ],
)
def test_values(arguments, changed):
    found, expected = parsed(*arguments), Settings("n", **changed)
    assert found == expected
    assert list(map(type, vars(found).values())) == list(map(type, vars(expected).values()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--colour", "blue"), "--colour = 'blue' is not possible: must be one of red, green"),
        (("--rounds", "3.5"), "--rounds = '3.5' is not possible: must be a whole number"),
        (("--rounds",), "rounds"),
        (("--span", "3"), "--span"),
        (("--loud", "perhaps"), "loud"),
        (("--nothing", "3"), "nothing"),
        (("--round", "3"), "--round"),
    ],
)
def test_wrong_flags_exit_with_the_reason(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: parsed(*arguments))
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_scripts_own_defaults_lie_under_yaml_and_flags(tmp_path, capsys):
    file = tmp_path / "s.yaml"
    file.write_text("# nothing\n")
    assert read_yaml(file) == {}
    with pytest.raises(InputError, match=f"{file}: --name is missing"):
        parse_config(Settings, "Try.", ["--config", str(file)])
    file.write_text("- rounds\n")
    with pytest.raises(InputError, match="expected names and values"):
        read_yaml(file)
    file.write_text("rounds: 5\nlayers: no\nloud: true\nlimit: 1e-5\ncolour: green\n")
    defaults = {"name": "own", "rate": 0.25, "rounds": 4, "layers": 5}
    assert parse_config(Settings, "Try.", [], None, defaults) == Settings("own", 0.25, 4, 5)
    arguments = ["--config", str(file), "--rounds", "7", "--no_loud"]
    settings = parse_config(Settings, "Try.", arguments, None, defaults)
    assert settings == Settings("own", 0.25, 7, 0, False, True, 1e-5, "green")
    assert type(settings.limit) is float
    with pytest.raises(SystemExit):
        parse_config(Settings, "Try.", ["--help"], None, defaults)
    assert "a rate of 10 % (default: 0.25)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rouds: 3\n", "unknown setting 'rouds'; did you mean 'rounds'"),
        ("rounds: many\n", "rounds = 'many' is not possible"),
        ("rounds: 2.5\n", r"rounds = 2\.5 is not possible: must be a whole number"),
        ("rounds: true\n", "must be a whole number"),
        ("rounds:\n", "rounds = None is not possible: a value is needed"),
        ("colour: blue\n", "must be one of red, green"),
        ("span: [1, 2, 3]\n", "2 values"),
        ("safe: 7\n", "must be True or False"),
        ("rounds: 13\n", "13 rounds bring bad luck"),
        ("rate: [1, 2\nrounds: 3\n", "line [34]: not valid YAML"),
        ("\trate: 3\n", "line 2: not valid YAML"),
        ("3: x\n", "expected names and values"),
        ("limit: !!python/object:os.system x\n", "line 2: not valid YAML"),
        ("rate: " + "[" * 5000, "YAML"),
        ("rate: 2021-99-99", "YAML"),
        ("rate: 0b", "rate = .0b. is not possible"),
    ],
)
def test_wrong_settings_name_file_and_line_or_setting(text, message, tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("name: n\n" + text)
    with pytest.raises(InputError, match=message) as caught:
        parse_config(Settings, "Try.", ["--config", str(file)])
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_redeclared_field_stays_in_its_group_with_its_new_default(capsys):
    @dataclasses.dataclass
    class Narrow(Settings):
        title: ClassVar[str] = "own"
        extra: int = flag(1, "more", at_least=0)
        rounds: int = flag(5, "how often")

    assert parse_config(Narrow, "Try.", ["--name", "n", "--rounds", "6"]).rounds == 6
    with pytest.raises(SystemExit):
        parse_config(Narrow, "Try.", ["--help"])
    before, own = capsys.readouterr().out.split("own:")
    assert "--rounds N  " in before
    assert "(default: 5)" in before
    assert "--extra" in own


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("file x,\nline 3: wrong"), 2, "tool.py: error: file x, line 3: wrong"),
        (FileNotFoundError(2, "No such file", "x"), 2, "tool.py: error: x: No such file; check the path"),
        (OSError(28, "No space left", "x"), 2, "tool.py: error: x: No space left; free some space and run"),
        (KeyboardInterrupt(), 130, "tool.py: interrupted"),
    ],
)
def test_scripts_end_in_one_sentence(error, code, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/tool.py"])

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(main)
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 // 0)
