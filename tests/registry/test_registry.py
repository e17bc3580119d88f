"""Discovery, isolation and building, with strangers' distributions that are laid on sys.path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from multistream.errors import PluginError, UsageError
from multistream.registry import build, discover, find, fusions, parts, streams, taps, temporals


def plugin(folder: Path, code: str, *, names: str = "thing", distribution: str = "multistream-thing") -> Path:
    """A stranger's source tree with one module, whose entry points name `names`."""
    module = distribution.replace("-", "_")
    lines = "\n".join(f'{name} = "{module}"' for name in names.split())
    tree = folder / distribution
    tree.mkdir()
    (tree / "pyproject.toml").write_text(
        f'[project]\nname = "{distribution}"\nversion = "1.0"\n\n[project.entry-points.multistream]\n{lines}\n'
    )
    (tree / f"{module}.py").write_text(f"import multistream\n\n{textwrap.dedent(code)}")
    return tree


def fresh(code: str, path: list[str]) -> str:
    """What `code` prints in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestDiscovery:
    def test_names_and_owners_come_without_an_import(self, installed):
        installed("sketch", "broken")
        claims = {claim.name: claim.owner for claim in discover()}
        assert claims["sketch"] == "multistream-sketch 0.1"
        assert claims["broken"] == "multistream-broken 0.3"
        assert not {name for name in sys.modules if name.startswith(("multistream_sketch", "multistream_broken"))}

    def test_is_read_once_until_refreshed(self, installed):
        installed("sketch")
        before = discover()
        assert discover() is before
        installed("broken")
        assert {claim.name for claim in discover()} - {claim.name for claim in before} == {"broken"}

    def test_asking_for_a_name_imports_that_plugin_alone(self, installed):
        installed("sketch", "mixer", "broken", "twin_a")
        assert "mixer" in taps
        assert "sketch" not in taps
        loaded = {name for name in sys.modules if name.startswith("multistream_")}
        assert loaded >= {"multistream_mixer", "multistream_sketch"}
        assert not loaded & {"multistream_twin_a", "multistream_broken", "multistream_sketch.stream"}

    def test_disabled_distributions_stay_out(self, installed, monkeypatch):
        monkeypatch.setenv("MULTISTREAM_DISABLED_PLUGINS", " Multistream_Sketch , multistream-broken")
        installed("sketch", "broken", "mixer")
        monkeypatch.setenv("MULTISTREAM_DISABLED_PLUGINS", "Multistream_Sketch,multistream-broken")
        discover(refresh=True)
        status = {row.name: (row.status, row.kind) for row in parts()}
        assert status["sketch"] == status["broken"] == ("disabled", None)
        assert status["mixer"][0] == "ok"
        assert "sketch" not in streams
        with pytest.raises(PluginError, match=r"'sketch' of multistream-sketch 0.1 is disabled by MULTISTREAM_DIS"):
            streams["sketch"]

    def test_all_disables_all_but_our_own(self, installed, monkeypatch):
        installed("sketch", "mixer")
        monkeypatch.setenv("MULTISTREAM_DISABLED_PLUGINS", "all")
        disabled = {claim.distribution for claim in discover(refresh=True) if claim.disabled}
        assert disabled >= {"multistream-sketch", "multistream-mixer"}
        assert "multistream" not in disabled
        assert "early" in fusions

    def test_a_disabled_name_that_is_not_installed_warns(self, installed, monkeypatch):
        installed("sketch")
        monkeypatch.setenv("MULTISTREAM_DISABLED_PLUGINS", "multistream-skech")
        with pytest.warns(UserWarning, match=r"Did you mean 'multistream-sketch'"):
            discover(refresh=True)


class TestMappings:
    def test_behave_like_mappings(self, installed):
        installed("mixer")
        assert {"bigru", "bigru+att", "concat", "average", "mixer"} <= set(temporals)
        assert len(temporals) == len(list(temporals))
        assert temporals.get("nothing") is None
        assert "nothing" not in temporals
        assert "mixer" in repr(temporals)
        assert taps["mixer"].__name__ == "Mixer"

    def test_are_read_only(self, installed):
        installed()
        with pytest.raises(TypeError):
            streams["mine"] = dict

    def test_an_unknown_name_says_the_nearest_of_its_kind(self, installed):
        installed("mixer")
        with pytest.raises(UsageError) as error:
            fusions["earli"]
        assert str(error.value) == "fusions: 'earli' is unknown. Did you mean 'early'? Known: early, gated, late."

    def test_a_run_without_a_slash_is_pointed_to(self, tmp_path, monkeypatch):
        (tmp_path / "frozen").mkdir()
        (tmp_path / "frozen" / "recipe.toml").touch()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=r"'frozen' is unknown\. Known: .* A run's path has a slash: \./frozen\."):
            find("stream", "frozen")

    def test_a_name_of_another_kind_says_so(self, installed):
        installed()
        with pytest.raises(UsageError, match=r"'concat' is a temporal, not a fusion"):
            fusions["concat"]


class TestIsolation:
    def test_a_broken_plugin_stops_no_other(self, installed):
        installed("broken", "misspelt", "sketch", "mixer")
        status = {(row.name, row.kind): row for row in parts()}
        assert status["sketch", "stream"].status == status["mixer", "tap"].status == "ok"
        row = status["broken", None]
        assert (row.status, row.distribution, row.version) == ("broken", "multistream-broken", "0.3")
        assert "ModuleNotFoundError: No module named 'a_library_that_nobody_has'" in row.error
        assert row.error.endswith(f"{Path('multistream_broken', '__init__.py')}:1)")

    def test_asking_for_a_broken_name_quotes_the_cause(self, installed):
        installed("broken")
        with pytest.raises(
            PluginError, match=r"'broken' of multistream-broken 0.3 is broken: ModuleNotFoundError"
        ) as error:
            streams["broken"]
        assert error.value.exit_code == 69

    def test_a_misspelt_hook_is_named(self, installed):
        installed("misspelt")
        with pytest.raises(PluginError, match=r"there is no hook 'stream'. Did you mean 'streams'?"):
            streams["misspelt"]

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("import sys; sys.exit(3)", "SystemExit: 3"),
            ("def f(: pass", "SyntaxError"),
            ("@multistream.hookimpl\ndef streams():\n    return ['thing']", "streams() returned list ['thing']"),
            ("@multistream.hookimpl\ndef streams():\n    {'thing': dict}", "streams() returned None"),
            ("@multistream.hookimpl\ndef streams():\n    return {'thing': 3}", "provides 'thing' as int 3"),
            ("@multistream.hookimpl\ndef streams():\n    return {'thing': 'a.b'}", "must read 'module:attribute'"),
            ("@multistream.hookimpl\ndef streams():\n    return {3: dict}", "provides the name 3"),
            ("@multistream.hookimpl\ndef streams(config):\n    return {'thing': dict}", "Argument(s) {'config'}"),
            ("@multistream.hookimpl\ndef streams():\n    return 1 / 0", "ZeroDivisionError"),
            ("@multistream.hookimpl(wrapper=True)\ndef streams():\n    yield", "streams() is a hook wrapper"),
            ("@multistream.hookimpl\ndef streams():\n    return {}", "no hook of multistream_thing provides it"),
            ("def streams():\n    return {'thing': dict}", "marked @multistream.hookimpl"),
            ("MULTISTREAM_API = 2", "upgrade this multistream"),
            ("MULTISTREAM_API = 0", "upgrade the plugin"),
        ],
    )
    def test_what_is_wrong_is_told(self, installed, tmp_path, code, message):
        installed(plugin(tmp_path, code), "mixer")
        row = next(row for row in parts() if row.name == "thing")
        assert row.status == "broken"
        assert message in row.error
        assert "\n" not in row.error
        assert "mixer" in taps
        with pytest.raises(PluginError, match=r"'thing' of multistream-thing 1.0 is broken"):
            streams["thing"]

    def test_ctrl_c_is_not_swallowed(self, installed, tmp_path):
        installed(plugin(tmp_path, "raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            parts()

    def test_an_unnamed_part_is_told_its_line(self, installed, tmp_path):
        code = "@multistream.hookimpl\ndef temporals():\n    return {'thing': dict, 'thing+more': dict}"
        installed(plugin(tmp_path, code))
        line = 'add the line "thing+more" = "multistream_thing" to [project.entry-points.multistream]'
        assert line in next(row.error for row in parts() if row.name == "thing+more")
        assert temporals["thing"] is dict
        with pytest.raises(PluginError, match=r"no entry point names it"):
            temporals["thing+more"]

    def test_what_a_plugin_prints_goes_to_stderr(self, installed, tmp_path, capsys):
        installed(plugin(tmp_path, "print('hello')\n@multistream.hookimpl\ndef taps():\n    return {'thing': dict}"))
        assert taps["thing"] is dict
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", "hello\n")

    def test_a_factory_that_cannot_be_imported_is_the_plugins_error(self, installed):
        installed("mixer")
        assert "torn" in taps
        with pytest.raises(
            PluginError, match=r"'torn' of multistream-mixer 2.0 .* RuntimeError: torn apart over two lines"
        ):
            taps["torn"]
        assert "mixer" in taps


class TestDuplicates:
    def test_are_an_error_that_names_both(self, installed):
        installed("twin_a", "twin_b")
        with pytest.raises(PluginError) as error:
            streams["twin"]
        assert str(error.value) == (
            "streams: 'twin' is provided by multistream-twin-a 1.0 and multistream-twin-b 1.0. "
            "Write twin@multistream-twin-a or twin@multistream-twin-b, "
            "or name one of them in MULTISTREAM_DISABLED_PLUGINS."
        )
        rows = [row for row in parts() if row.name == "twin"]
        assert [row.status for row in rows] == ["broken", "broken"]
        assert all("multistream-twin-a 1.0 and multistream-twin-b 1.0" in row.error for row in rows)

    def test_the_distribution_settles_it(self, installed):
        installed("twin_a", "twin_b")
        assert build("stream", "twin@multistream-twin-b") == "b"
        assert streams["twin@Multistream_Twin_A"]() == "a"
        with pytest.raises(
            UsageError,
            match=r"'multistream-twin-c' provides no 'twin'. It is provided by twin@multistream-twin-a, twin@",
        ):
            build("stream", "twin@multistream-twin-c")

    def test_a_distribution_that_is_not_installed_is_named(self, installed):
        installed("twin_a")
        with pytest.raises(PluginError, match=r"^streams: 'lost' needs multistream-lost, which is not installed\."):
            build("stream", "lost@multistream-lost")

    def test_disabling_settles_it(self, installed, monkeypatch):
        installed("twin_a", "twin_b")
        monkeypatch.setenv("MULTISTREAM_DISABLED_PLUGINS", "multistream-twin-a")
        discover(refresh=True)
        assert streams["twin"]() == "b"

    def test_one_name_in_two_kinds_is_none(self, installed, tmp_path):
        tree = plugin(tmp_path, "@multistream.hookimpl\ndef fusions():\n    return {'twin': dict}", names="twin")
        installed("twin_a", tree)
        assert streams["twin"]() == "a"
        assert fusions["twin"] is dict

    def test_one_module_under_two_distributions_is_none(self, installed, tmp_path):
        alone = tmp_path / "alone"
        alone.mkdir()
        (alone / "pyproject.toml").write_text(
            '[project]\nname = "multistream-early"\nversion = "1"\n'
            '[project.entry-points.multistream]\nearly = "multistream.parts.hooks"\n'
        )
        installed(alone)
        assert find("fusion", "early").distribution == "multistream"


class TestBuild:
    @pytest.fixture(autouse=True)
    def _mixer(self, installed):
        installed("mixer")

    def test_a_factory_gets_what_its_signature_names(self):
        given = {"channels": 3, "depth": 9}
        made = build("tap", "mixer:narrow", options={"mode": "x"}, given=given)
        assert made.got == {"channels": 3, "variant": "narrow", "strength": 0.5, "mode": "x"}

    def test_an_unknown_option_is_refused(self):
        with pytest.raises(UsageError) as error:
            build("tap", "mixer", options={"mode": 1, "strenght": 1}, given={"channels": 3})
        assert str(error.value) == (
            "options.tap: 'strenght' is unknown. Did you mean 'strength'? Known: mode, strength."
        )

    def test_what_the_composition_gives_is_no_option(self):
        with pytest.raises(UsageError, match=r"'channels' is unknown"):
            build("tap", "mixer", options={"mode": 1, "channels": 1}, given={"channels": 3})

    def test_a_missing_option_is_named(self):
        with pytest.raises(UsageError, match=r"'mixer' needs mode. Set options.tap.mode."):
            build("tap", "mixer", given={"channels": 3})

    def test_an_unknown_variant_is_refused(self):
        with pytest.raises(UsageError, match=r"'mixer' has no variant 'wid'. Did you mean 'wide'?"):
            build("tap", "mixer:wid", options={"mode": 1}, given={"channels": 3})

    def test_a_variant_where_there_are_none_is_refused(self):
        with pytest.raises(UsageError, match=r"'mixer' has no variants, but 'wide' is asked for"):
            build("temporal", "mixer:wide")

    def test_keyword_arguments_take_nothing_along(self):
        assert build("temporal", "mixer", given={"width": 3}) == {}
        with pytest.raises(UsageError, match=r"options.temporal: 'width' is unknown"):
            build("temporal", "mixer", options={"width": 3})

    def test_a_run_is_no_part(self):
        with pytest.raises(UsageError, match=r"is a branch of a run"):
            build("tap", "runs/x")


class TestLaziness:
    HEAVY = "[name for name in ('torch', 'numpy', 'timm', 'typer') if name in sys.modules]"

    def test_listing_imports_no_torch(self, installed):
        path = installed("sketch", "broken", "twin_a", "twin_b", "mixer")
        code = f"""
            import sys, json
            from multistream.registry import parts
            names = [row.name for row in parts()]
            print(json.dumps([names, {self.HEAVY}]))
        """
        names, heavy = json.loads(fresh(code, path))
        assert {"sketch", "broken", "twin", "early"} <= set(names)
        assert heavy == []

    def test_the_test_above_can_fail(self, installed):
        path = installed("sketch")
        code = f"import sys\nfrom multistream.registry import streams\nstreams['sketch']\nprint({self.HEAVY})"
        assert "torch" in fresh(code, path)

    def test_a_name_and_a_recipe_import_no_plugin(self, installed):
        path = installed("sketch")
        code = """
            import sys
            from multistream.registry import discover, parse_specs
            from multistream.recipe import Recipe
            discover(); parse_specs("sketch,places"); Recipe.load("paper")
            print([name for name in sys.modules if name.startswith("multistream_") or name in ("torch", "numpy")])
        """
        assert fresh(code, path) == "[]\n"


def test_our_own_parts_are_all_well(installed):
    installed()
    assert [row for row in parts() if row.distribution == "multistream" and row.status != "ok"] == []
