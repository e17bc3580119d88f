"""Recipes: round trips, what is refused at the door, and what the shipped ones say."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multistream.errors import MultistreamError, UsageError
from multistream.recipe import Recipe, differences
from multistream.recipe.recipe import SECTIONS, SHIPPED

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)  # a NUL is refused
NUMBERS = st.floats(0, 0.9, allow_nan=False)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OPTIONS = st.dictionaries(TEXT, VALUES, max_size=3)
KEYS = st.sampled_from(["object", "places", "anp"])
TREES = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries({}, optional={"source": TEXT, "strict": st.booleans(), "split_seed": st.just(3)}),
        "network": st.fixed_dictionaries(
            {"streams": st.just({"object": "object:mobilenetv1", "places": "places", "anp": "runs/a"})},
            optional={"depth": st.dictionaries(KEYS, st.integers(1, 9)), "freeze": st.lists(KEYS, unique=True)},
        ),
        "options": st.fixed_dictionaries({}, optional={"fusion": OPTIONS, "streams": st.dictionaries(KEYS, OPTIONS)}),
        "training": st.fixed_dictionaries(
            {}, optional={"momentum": NUMBERS, "decays": st.dictionaries(KEYS, NUMBERS), "flips": st.just([])}
        ),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_round_trips_exactly(tree):
    recipe = Recipe.from_dict(tree)
    assert Recipe.loads(recipe.dumps()) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe.loads(recipe.dumps()).dumps() == recipe.dumps()
    assert differences(recipe, Recipe.from_dict(recipe.to_dict())) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_ones_load_save_and_load(name, tmp_path):
    recipe = Recipe.load(name)
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path) == Recipe.load(str(tmp_path / "recipe.toml")) == recipe


def test_default_says_every_setting():
    assert Recipe.load("default") == Recipe()
    from importlib.resources import files

    text = files("multistream").joinpath("recipe", "default.toml").read_text()
    for section in SECTIONS.values():
        for each in fields(section):
            assert re.search(rf"^({each.name} = |\[{section.section}\.{each.name}\])", text, re.MULTILINE), each.name


def test_paper_is_the_papers():
    recipe = Recipe.load("paper")
    training = recipe.training
    assert (training.optimizer, training.learning_rate, training.momentum, training.batch_size) == ("sgd", 1e-3, 0, 10)
    assert (training.epochs, training.patience, training.monitor, training.keep) == (50, 7, "loss", "accuracy")
    assert (training.weight_decay, training.decays) == (0, {"places": 4e-4})
    assert training.flips == ("horizontal", "vertical")
    assert recipe.network.freeze == ("none",)
    assert list(recipe.network.streams) == ["object", "places", "anp"]
    assert differences(recipe, Recipe.load("paper-code")) == [
        ("network.streams.object", "object:mobilenetv2", "object:mobilenetv1"),
        ("network.temporal", "concat", "average"),
        ("options.streams.places.normalisation", None, "paper-code"),
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "training.learningrate=1",
            "recipe: training.learningrate is unknown. Did you mean 'training.learning_rate'? [tr",
        ),
        ("epochs=3", "recipe: epochs is unknown. Did you mean 'training.epochs'?"),
        ("data.epochs=3", "recipe: data.epochs is unknown. Did you mean 'training.epochs'?"),
        ("trainig.epochs=3", "Did you mean 'training.epochs'?"),
        ("data=3", "recipe: data is a section. It has source"),
        ("training.epochs", "--set: 'training.epochs' has no value. Write KEY=VALUE"),
        ("training.seed.x=1", "training.seed is not a table"),
        ("training.epochs=-3", "training.epochs: -3 is out of range. It must be an integer from 1 to 1,000,000."),
        ("training.epochs=3.5", "training.epochs: 3.5 is a number. It must be an integer from 1 to 1,000,000."),
        ("training.epochs=true", "training.epochs: True is true or false. It must be an integer"),
        ("training.learning_rate=0", "training.learning_rate: 0 is out of range. It must be a number above 0."),
        ("training.learning_rate=nan", "training.learning_rate: nan is out of range."),
        ("training.momentum=1", "It must be a number of at least 0 and below 1."),
        ("training.optimizer=adamv", "'adamv' cannot be read. It must be adamw, adam, sgd or timm:NAME."),
        ("training.flips=['auto', 'vertical']", "contradicts itself"),
        ("data.split=80/5", "'80/5' cannot be read. It must be train/val/test percentages, as in 80/5/15"),
        ("data.split=80/10/15", "'80/10/15' sums to 105."),
        ("data.split=0/50/50", "cannot be read"),
        ("data.background=[0, 0]", "data.background: [0, 0] has 2 entries. It must be a list of 3."),
        ("data.background=[0, 0, 256]", "data.background.2: 256 is out of range. It must be an integer from 0 to 255."),
        ("data.source=3", 'data.source: 3 is an integer. It must be a string, in quotes: "..."'),
        ("data.strict=1", "data.strict: 1 is an integer. It must be true or false."),
        ("runtime.device=gpu", "It must be auto, cpu, cuda, cuda:N or mps."),
        ("network.streams.pop=object", "network.streams: 'pop' cannot be a key."),
        ("network.streams.x=a:b:c", "network.streams: 'a:b:c' is not a spec."),
        ("network.fusion=runs/x", "network.fusion: 'runs/x' is a path."),
        ("network.depth.object=0", "network.depth.object: 0 is out of range."),
        ("network.depth.objct=2", "network.depth: no stream has the key 'objct'. Did you mean 'object'?"),
        ("network.weights.objct=hub", "network.weights: no stream has the key 'objct'"),
        ("network.freeze=['objct:2']", "network.freeze: no stream has the key 'objct'"),
        ("network.freeze=['object:0']", "cannot be read. It must be none, streams, branches, KEY or KEY:NUMBER"),
        ("network.freeze=['none', 'object']", "contradict each other"),
        ("options.streams.objct.x=1", "options.streams: no stream has the key 'objct'"),
        ("options.fusion.dropout=inf", "options.fusion.dropout: inf is out of range. It must be a finite number."),
        ("options.fusion.since=2020-01-01", "options.fusion.since"),
        ("training.rates.places=-1", "training.rates.places: -1 is out of range."),
    ],
)
def test_what_cannot_be_meant_is_refused(setting, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Recipe.load("paper").with_settings([setting])


def test_settings_are_toml_or_words():
    words = ["training.learning_rate=1", "training.schedule=constant", "network.weights.object=~/a b.pth"]
    recipe = Recipe.load("paper").with_settings([*words, "options.streams.places.normalisation=paper-code"])
    assert recipe.training.learning_rate == 1.0
    assert isinstance(recipe.training.learning_rate, float)
    assert recipe.training.schedule == "constant"
    assert recipe.network.weights == {"object": "~/a b.pth"}
    assert recipe.options.streams == {"places": {"normalisation": "paper-code"}}


def test_a_setting_cannot_smuggle_another():
    recipe = Recipe().with_settings(["data.source=1\nstrict = true"])
    assert recipe.data.source == "1\nstrict = true"
    assert recipe.data.strict is False


def test_updated_replaces_settings_and_leaves_the_rest():
    recipe = Recipe.load("paper").updated({"training": {"epochs": 3}, "network": {"fusion": "late"}})
    assert [name for name, _, _ in differences(Recipe.load("paper"), recipe)] == ["network.fusion", "training.epochs"]
    with pytest.raises(UsageError, match=r"training.epoch is unknown. Did you mean 'training.epochs'"):
        recipe.updated({"training": {"epoch": 3}})


def test_a_stream_that_goes_takes_its_settings_along():
    recipe = Recipe.load("paper-code").with_settings(["network.freeze=['places:2', 'object']"])
    alone = recipe.updated({"network": {"streams": {"object": "object"}}})
    assert alone.training.decays == {}
    assert alone.options.streams == {}
    assert alone.network.freeze == ("object",)
    assert recipe.with_settings(["network.streams={object='object'}"]) == alone


def test_keys_are_held_against_the_streams_once_there_are_some():
    early = Recipe().with_settings(["network.weights.objct=hub"])
    with pytest.raises(UsageError, match=r"no stream has the key 'objct'. Did you mean 'object'"):
        early.updated({"network": {"streams": {"object": "object"}}})


def test_a_recipe_is_checked_however_it_is_made():
    from multistream.recipe import TrainingSettings

    with pytest.raises(UsageError, match=r"training.epochs: -3"):
        TrainingSettings(epochs=-3)
    assert TrainingSettings(flips=["horizontal"]).flips == ("horizontal",)
    with pytest.raises(FrozenInstanceError):
        Recipe().training = TrainingSettings()


class TestFiles:
    def test_a_name_that_is_nothing_says_the_nearest(self):
        with pytest.raises(
            UsageError, match=r"'papr' is not a file, a run or a built-in recipe. Did you mean 'paper'\?"
        ):
            Recipe.load("papr")

    def test_broken_files_are_told(self, tmp_path):
        file = tmp_path / "r.toml"
        file.write_text("[training]\nepochs = = 3")
        with pytest.raises(UsageError, match=r"r\.toml: this is not valid TOML: .*line 2"):
            Recipe.load(file)
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(UsageError, match="not UTF-8"):
            Recipe.load(file)
        file.write_text("training = 3")
        with pytest.raises(UsageError, match=r"training is 3. It must be a table: \[training\]"):
            Recipe.load(file)

    def test_a_text_that_no_file_can_hold_is_refused(self):
        with pytest.raises(UsageError, match="not UTF-8"):
            Recipe.from_dict({"data": {"source": "\udcff"}})

    def test_a_folder_that_cannot_be_made_is_told(self, tmp_path):
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(MultistreamError, match="file"):
            Recipe().save(tmp_path / "file" / "recipe.toml")

    def test_a_shipped_name_goes_before_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "paper").mkdir()
        assert Recipe.load("paper").training.batch_size == 10
        with pytest.raises(UsageError):
            Recipe.load("./paper")
