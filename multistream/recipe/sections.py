"""The sections of a recipe: every setting with its default and allowed values (see multistream/recipe/default.toml)."""

# ruff: noqa: RUF009  setting() is dataclasses.field() with a reader
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from multistream.errors import UsageError
from multistream.recipe.readers import (
    Reader,
    Wrong,
    anything,
    flag,
    integer,
    listing,
    matching,
    number,
    one_of,
    table,
    text,
)
from multistream.spec import Spec, check_key

COUNT = 1_000_000
"""An upper bound on epochs and on images per batch."""

Resize = Literal["squash", "crop"]
DecoderName = Literal["pillow", "nvjpeg"]
OnBadImage = Literal["report", "error", "skip"]
MissingVectors = Literal["error", "mean", "zero", "skip"]
Solver = Literal["gradient", "lbfgs"]
Schedule = Literal["cosine", "constant", "linear"]
Measure = Literal["loss", "accuracy"]
Calibration = Literal["auto", "none", "temperature"]
Augment = Literal["none", "randaugment", "trivial", "augmix"]
BatchNorm = Literal["auto", "batch", "fixed"]
ClassWeights = Literal["none", "balanced"]
PrecisionSetting = Literal["auto", "fp32", "bf16", "fp16"]
Switch = Literal["auto", "on", "off"]


def setting(default: Any, reader: Reader) -> Any:
    """A field of a section: its default, and the reader that checks every value."""
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"reader": reader})
    return field(default=default, metadata={"reader": reader})


def word(choices: Any) -> Reader:
    """A reader of one word of a Literal."""
    return one_of(*get_args(choices))


class Section:
    """A group of settings; the constructor checks every value and raises UsageError."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            try:
                value = each.metadata["reader"](getattr(self, each.name))
            except Wrong as error:
                where = ".".join((self.section, each.name, *error.path))
                raise UsageError(where, error.what, right=f"It must be {error.right}.") from error
            object.__setattr__(self, each.name, value)


def split_shares(value: Any) -> str:
    """Reads percentages, `train/val/test`."""
    right = "train/val/test percentages, as in 80/5/15: three numbers that sum to 100, the first not 0"
    try:
        shares = [float(share) for share in text(value).split("/")]
    except ValueError as error:
        raise Wrong(f"{value!r} cannot be read.", right) from error
    if len(shares) != 3 or not all(0 <= share <= 100 for share in shares) or shares[0] == 0:
        raise Wrong(f"{value!r} cannot be read.", right)
    if abs(sum(shares) - 100) > 1e-6:
        raise Wrong(f"{value!r} sums to {sum(shares):g}.", right)
    return str(value)


def fold_count(value: Any) -> int:
    """Reads a number of folds: 0, or at least 2."""
    count: int = integer(0)(value)
    if count == 1:
        raise Wrong("1 fold leaves no training images.", "0, or at least 2")
    return count


def penalty_grid(value: Any) -> tuple[float, ...]:
    """Reads a list of at least one penalty above 0."""
    grid: tuple[float, ...] = listing(number(above=0))(value)
    if not grid:
        raise Wrong("an empty list has no penalty.", "a list of numbers above 0")
    return grid


def flip_names(value: Any) -> tuple[str, ...]:
    """Reads the directions of random flips, or `auto` alone."""
    names: tuple[str, ...] = listing(one_of("auto", "horizontal", "vertical"))(value)
    if len(set(names)) != len(names) or ("auto" in names and len(names) > 1):
        raise Wrong(f"{list(names)} contradicts itself.", '["auto"], or any of "horizontal" and "vertical", each once')
    return names


def spec_of(noun: str, *, section: str = "network") -> Reader:
    """A reader of a part's spec, without a key."""

    def read(value: Any) -> str:
        if Spec.parse(text(value), key=noun, where=f"{section}.{noun}").run is not None:
            raise Wrong(f"{value!r} is a path.", f"a {noun}'s NAME[:VARIANT][@DISTRIBUTION]")
        return str(value)

    return read


def stream_specs(value: Any) -> dict[str, str]:
    """Reads streams by key: `object = "object:mobilenetv1"`, or the path of a run."""
    specs: dict[str, str] = table(text)(value)
    for key, spec in specs.items():
        Spec.parse(spec, key=key, where="network.streams")
    return specs


def by_key(reader: Reader) -> Reader:
    """A reader of a table whose names are stream keys."""
    read_table = table(reader)

    def read(value: Any) -> dict[str, Any]:
        entries: dict[str, Any] = read_table(value)
        for key in entries:
            check_key(key, where="recipe")
        return entries

    return read


@dataclass(frozen=True)
class DataSettings(Section):
    """The images, their splits, and how files are decoded."""

    section: ClassVar[str] = "data"

    source: str = setting("", text)
    label: str = setting("", text)
    split: str = setting("80/5/15", split_shares)
    split_seed: int = setting(18, integer(0, 2**32 - 1))  # the range that scikit-learn accepts
    folds: int = setting(0, fold_count)
    fold: int = setting(0, integer(0, COUNT))
    repeats: int = setting(1, integer(1, COUNT))
    groups: str = setting("", text)
    resize: Resize = setting("squash", word(Resize))
    image_size: int = setting(0, integer(0, 16_384))
    on_bad_image: OnBadImage = setting("report", word(OnBadImage))
    max_pixels: int = setting(64_000_000, integer(1, 2**40))
    min_side: int = setting(8, integer(1, 2**20))
    background: tuple[int, int, int] = setting((255, 255, 255), listing(integer(0, 255), length=3))
    draft: bool = setting(True, flag)
    decoder: DecoderName = setting("pillow", word(DecoderName))
    allow_outside: bool = setting(False, flag)
    strict: bool = setting(False, flag)
    missing_vectors: MissingVectors = setting("error", word(MissingVectors))


@dataclass(frozen=True)
class NetworkSettings(Section):
    """The composition: streams by key, with taps, temporal, fusion, weights and inputs."""

    section: ClassVar[str] = "network"

    streams: Mapping[str, str] = setting({}, stream_specs)
    tap: str = setting("gap:64", spec_of("tap"))
    temporal: str = setting("concat", spec_of("temporal"))
    fusion: str = setting("early", spec_of("fusion"))
    depth: Mapping[str, int] = setting({}, by_key(integer(1, 10_000)))
    weights: Mapping[str, str] = setting({}, by_key(matching(r"(?s).+", "a file, a run, hub or random")))
    inputs: Mapping[str, str] = setting({}, table(matching(r"(?s).+", "the path of a file or folder")))
    freeze: tuple[str, ...] = setting(
        (), listing(matching(r"[a-z][a-z0-9_]*(:[1-9]\d*)?", "none, streams, branches, KEY or KEY:NUMBER"))
    )


@dataclass(frozen=True)
class OptionSettings(Section):
    """The options of the parts, passed by keyword; missing options keep the part's default."""

    section: ClassVar[str] = "options"

    streams: Mapping[str, Mapping[str, Any]] = setting({}, by_key(table(anything)))
    tap: Mapping[str, Any] = setting({}, table(anything))
    temporal: Mapping[str, Any] = setting({}, table(anything))
    fusion: Mapping[str, Any] = setting({}, table(anything))
    loss: Mapping[str, Any] = setting({}, table(anything))


@dataclass(frozen=True)
class TrainingSettings(Section):
    """Settings of training: solver, optimizer, loss, regularisation and augmentation."""

    section: ClassVar[str] = "training"

    seed: int = setting(0, integer(0, 2**63 - 1))
    solver: Solver = setting("gradient", word(Solver))
    penalties: tuple[float, ...] = setting(
        (100.0, 31.6, 10.0, 3.16, 1.0, 0.316, 0.1, 0.0316, 0.01, 0.00316, 0.001, 0.000316, 0.0001), penalty_grid
    )
    epochs: int = setting(30, integer(1, COUNT))
    probe_epochs: int = setting(-1, integer(-1, COUNT))
    batch_size: int = setting(64, integer(1, COUNT))
    optimizer: str = setting("adamw", matching(r"adamw|adam|sgd|timm:[a-z0-9_]+", "adamw, adam, sgd or timm:NAME"))
    learning_rate: float = setting(1e-3, number(above=0))
    fine_tuning_rate: float = setting(5e-5, number(above=0))
    weight_decay: float = setting(0.05, number(0))
    momentum: float = setting(0.0, number(0, below=1))
    schedule: Schedule = setting("cosine", word(Schedule))
    warmup_steps: int = setting(0, integer(0, 10**9))
    layer_decay: float = setting(1.0, number(above=0, at_most=1))
    ema: float = setting(0.0, number(0, below=1))
    batch_norm: BatchNorm = setting("auto", word(BatchNorm))
    rates: Mapping[str, float] = setting({}, by_key(number(above=0)))
    decays: Mapping[str, float] = setting({}, by_key(number(0)))
    patience: int = setting(7, integer(0, COUNT))
    monitor: Measure = setting("loss", word(Measure))
    keep: Measure = setting("loss", word(Measure))
    loss: str = setting("cross_entropy", spec_of("loss", section="training"))
    label_smoothing: float = setting(0.0, number(0, below=1))
    calibration: Calibration = setting("auto", word(Calibration))
    stream_dropout: float = setting(0.0, number(0, below=1))
    class_weights: ClassWeights = setting("none", word(ClassWeights))
    clip_norm: float = setting(0.0, number(0))
    accumulation: int = setting(1, integer(1, COUNT))
    flips: tuple[str, ...] = setting(("auto",), flip_names)
    crops: bool = setting(False, flag)
    augment: Augment = setting("none", word(Augment))
    mixup: float = setting(0.0, number(0, 1000))
    cutmix: float = setting(0.0, number(0, 1000))
    checkpoint_minutes: float = setting(5.0, number(0, 10**6))


@dataclass(frozen=True)
class RuntimeSettings(Section):
    """Settings of the machine; results agree up to rounding."""

    section: ClassVar[str] = "runtime"

    device: str = setting("auto", matching(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, cuda, cuda:N or mps"))
    precision: PrecisionSetting = setting("auto", word(PrecisionSetting))
    compile: Switch = setting("auto", word(Switch))
    channels_last: Switch = setting("auto", word(Switch))
    cuda_graphs: Switch = setting("auto", word(Switch))
    workers: int = setting(-1, integer(-1, 1024))
    threads: int = setting(0, integer(0, 1024))
    fit_batch: bool = setting(False, flag)
    shard: bool = setting(False, flag)


def is_table(name: str, section: type[Section]) -> bool:
    """Whether a setting is a table, so that single entries can be set."""
    return any(each.name == name and each.default_factory is not MISSING for each in fields(section))  # type: ignore[arg-type]
