"""Checks the arguments of compose before anything is built: classes, streams, and options by stream key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from multistream.errors import UsageError, check_known
from multistream.interfaces import Stream
from multistream.spec import Spec, check_key, parse_specs


def check_classes(classes: Sequence[str]) -> None:
    """Raises UsageError unless the classes are a list of different names."""
    if not isinstance(classes, Iterable):
        raise UsageError("classes", f"{classes!r} was given.", right="It must be a list of names.")
    if not classes:
        raise UsageError("classes", "none is given.", right="A network needs the names of its classes.")
    if isinstance(classes, str):
        raise UsageError("classes", f"{classes!r} is one text.", right="It must be a list of names.")
    if wrong := [name for name in classes if not isinstance(name, str) or not name]:
        raise UsageError("classes", f"{wrong[0]!r} is not a name.", right="It must be a list of names.")
    if repeated := [name for name, count in Counter(classes).items() if count > 1]:
        raise UsageError("classes", f"{repeated[0]!r} occurs twice.", right="Each class must have a name of its own.")


def check_keys(specs: Mapping[str, Spec | Stream], by_key: Mapping[str, Mapping[str, object]]) -> None:
    """Raises UsageError for arguments {name: {key: ...}} of a stream that is not composed."""
    for where, named in by_key.items():
        check_known(named, specs, where=where, what="the network has no stream {name!r}.")


def streams_by_key(streams: Mapping[str, str | Stream] | Sequence[str]) -> dict[str, Spec | Stream]:
    """Returns the streams by key; specs in a sequence contain their own keys."""
    if not streams:
        raise UsageError("streams", "none is given.", right="At least one is needed, as in --streams object,anp.")
    if isinstance(streams, Mapping):
        for key, given in streams.items():
            check_key(key)
            _check_stream(key, given)
        return {k: Spec.parse(v, key=k) if isinstance(v, str) else v for k, v in streams.items()}
    for given in () if isinstance(streams, str) else streams:
        _check_stream("", given)
    return {spec.key: spec for spec in parse_specs(streams)}


def _check_stream(key: str, given: object) -> None:
    """Raises UsageError unless `given` is a spec or, with a `key`, a stream."""
    if isinstance(given, str) or (key and isinstance(given, Stream)):
        return
    where, do = f"streams.{key}" if key else "streams", ""
    right = "It must be a spec such as 'object', or a multistream.Stream."
    if isinstance(given, Stream):
        do = "Give it a key: compose({'mine': stream}, ...)."
    elif isinstance(given, nn.Module):
        do = (
            "Name its blocks as stages: multistream.Stream({'block1': ...}, channels={'block1': 64}, "
            "input=multistream.Image(size=224))."
        )
    raise UsageError(where, f"a {type(given).__name__} was given.", right=right, do=do)
