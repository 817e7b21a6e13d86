"""Parser of the command line and the configuration files, into plain values.

RecBole evaluates the values of its command line as Python, drops arguments with a second `=` and ignores arguments that
it does not know. Here a value is YAML and never evaluated, and everything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from recbole_kd.config.known_keys import ARGUMENTS
from recbole_kd.errors import ConfigError

FLAGS = {"--list": "list", "--help": "help", "-h": "help", "--version": "version", "--allow_code": "allow_code"}

_KEY = re.compile(r"[A-Za-z_][\w.-]*")
# Exceptions that the constructors of a damaged or hostile document raise besides yaml.YAMLError.
_PARSE_ERRORS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _refuse_cycles(node: yaml.Node, above: set[int]) -> None:
    """Raise ConstructorError if a node lies inside itself."""
    if not isinstance(node, yaml.CollectionNode):
        return
    if id(node) in above:
        raise yaml.constructor.ConstructorError(None, None, "a value contains itself", node.start_mark)
    inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
    for part in inner:
        _refuse_cycles(part, above | {id(node)})


class _Loader(yaml.SafeLoader):
    """Safe YAML with RecBole's conventions: `1e-3` is a float, `None` is null.

    There are no dates and no octal numbers. A key that occurs twice in one mapping is an error: PyYAML would silently
    keep the last one.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rsplit(":", 1)[-1] in {"null", "bool", "int", "float", "str", "seq", "map"}
    }

    def construct_document(self, node: yaml.Node) -> Any:
        """Return the value of a document; refuse one that contains itself by an alias."""
        _refuse_cycles(node, set())
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} occurs twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _resolve_as(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})$"), list(first))


_resolve_as("bool", "(?i:true|false|yes|no|on|off)", "tTfFyYnNoO")
_resolve_as("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789")
_resolve_as(
    "float",
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)
_resolve_as("merge", "<<", "<")
# An empty scalar has no first character: PyYAML looks it up under "".
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|None|)$"), ["~", "n", "N", ""])


def parse_arguments(argv: Sequence[str]) -> dict[str, object]:
    """Read `--key=value` arguments; `--list`, `--help`, `-h` and `--version` need no value.

    Raises:
        ConfigError: an argument is not `--key=value`, a value is broken YAML, or a key has two values.
    """
    values: dict[str, object] = {}
    texts: dict[str, str] = {}
    for place, argument in enumerate(argv):
        if argument in FLAGS:
            key, text = FLAGS[argument], "True"
        else:
            key, text = _split(argument, argv[place + 1] if place + 1 < len(argv) else None)
        value = parse_value(key, text)
        # compare by repr: == calls 1 and True equal, and two NaN different
        if key in values and repr(values[key]) != repr(value):
            raise ConfigError(f"--{key} is given twice, as {texts[key]!r} and as {text!r} (fix: keep one of them).")
        values[key], texts[key] = value, text
    return values


def _split(argument: str, following: str | None) -> tuple[str, str]:
    """Split `--key=value` into key and value, at the first `=`."""
    name, equals, text = argument.partition("=")
    key = name[2:] if name.startswith("--") else ""
    if not equals:
        raise ConfigError(_no_equals(argument, following))
    if not name.startswith("--"):
        corrected = "--" + argument.lstrip("-")
        raise ConfigError(f"Argument {argument!r} does not start with two dashes (fix: write {corrected}).")
    if not key:
        raise ConfigError(f"Argument {argument!r} has no key before the '=' (fix: write --key=value).")
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"Argument {argument!r} has the key {key!r}, but a key is made of letters, digits, '_', '.' and '-' (fix: "
            "write --key=value)."
        )
    return key, text


def _no_equals(argument: str, following: str | None) -> str:
    if not argument.startswith("-"):
        return f"Argument {argument!r} stands alone, but arguments are --key=value (fix: --key={argument})."
    corrected = "--" + argument.lstrip("-")
    if (key := corrected.removeprefix("--")) in ARGUMENTS:
        return f"Unknown key {key!r}: {ARGUMENTS[key]}."
    if following is not None and not following.startswith("--") and following not in FLAGS:
        value = f"'{following}'" if " " in following else following
        return f"Argument {argument!r} has no '=' (fix: write {corrected}={value})."
    return f"Argument {argument!r} has no '=' (fix: write {corrected}=value, that is --key=value)."


def parse_value(key: str, text: str) -> object:
    """Return the value of one argument: a YAML list, mapping, quoted string or plain scalar.

    A plain scalar that is not a number, bool or null is the text itself, unchanged (also an empty or blank one).
    Comments, tags and block YAML have no meaning on a command line.

    Raises:
        ConfigError: a list, mapping or quoted string is broken, or a number is too long to read.
    """
    start = text.lstrip()[:1]
    if start == "":
        return text
    if start in "[(" and key.endswith("_num_interval"):
        return text  # RecBole's intervals, such as [5,inf), look like broken lists
    try:
        if start not in "[{\"'":
            return _plain(text)
        value = yaml.load(text, Loader=_Loader)
        _reject_glued_colons(value)
    except _PARSE_ERRORS as error:
        raise ConfigError(
            f"--{key}={_short(text)} cannot be read: {_reason(error)} (fix: write a list as [a, b], "
            "a mapping as {a: 1, b: 2}, and quote a text that starts with a bracket or quote: '\"[a\"')."
        ) from error
    return value


def _plain(text: str) -> object:
    loader = _Loader("")
    stripped = text.strip()
    tag = loader.resolve(yaml.ScalarNode, stripped, (True, False))
    if tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
        return text
    return loader.construct_object(yaml.ScalarNode(tag, stripped))


def _reject_glued_colons(value: object) -> None:
    """Refuse {order:RO}, which YAML reads as the key 'order:RO' without a value."""
    if isinstance(value, list):
        for element in value:
            _reject_glued_colons(element)
    elif isinstance(value, dict):
        for name, element in value.items():
            if element is None and ":" in str(name):
                raise ValueError(f"a space is missing after the colon in {name!r}")
            _reject_glued_colons(element)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        return error.problem or error.context or "not valid YAML"
    return " ".join(str(error).split()) or "not valid YAML"


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[:limit] + "..."


def split_config_files(value: object) -> list[str]:
    """Return the paths in `config_files`: one string with spaces between them, or a list.

    Raises:
        ConfigError: the value is neither.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(path, str) for path in value):
        return list(value)
    raise ConfigError(f"config_files={value!r} is not a list of paths (fix: --config_files='a.yaml b.yaml').")


def loaded_once(text: str, loader: Any) -> Any:
    """Return what YAML text says, in objects of the caller's own; equal texts are parsed once.

    A run reads some 60 property files, most of them several times.

    Args:
        text: of one document. loader: a class of PyYAML's.
    """
    return deepcopy(_loaders(loader)(text))


@lru_cache(maxsize=4)
def _loaders(loader: Any) -> Callable[[str], Any]:
    """Return a function that parses with one loader and remembers what it has parsed."""
    return lru_cache(maxsize=256)(partial(yaml.load, Loader=loader))


def read_config_file(path: str | Path) -> dict[str, object]:
    """Return the keys and values of one YAML file; an empty file has none.

    Raises:
        ConfigError: the file is missing, unreadable, not valid YAML, or not a mapping with text keys.
    """
    try:
        content = loaded_once(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"Configuration file '{path}' does not exist (fix: check the path in config_files)."
        ) from error
    except OSError as error:
        raise ConfigError(f"Configuration file '{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Configuration file '{path}' is not UTF-8 text (fix: save it as UTF-8).") from error
    except _PARSE_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"Configuration file '{path}' is not valid YAML{place}: {_reason(error)}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"Configuration file '{path}' holds a {type(content).__name__}, not a mapping (fix: write 'key: value' "
            "lines)."
        )
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"Configuration file '{path}' has the key {key!r}, which is not a text (fix: quote it).")
    return content


def nest_prefix(
    values: Mapping[str, object], prefix: str, mapping_key: str | None = None
) -> tuple[dict[str, object], dict[str, object]]:
    """Split `prefix.x` keys, and the mapping under `mapping_key`, from the rest.

    A dotted key wins over the mapping, which is `<prefix>_config` by default: `nest_prefix(v, "eval_args",
    "eval_args")` collects `eval_args.split` and `eval_args: {...}`. If the mapping is empty (None), nested has only
    the dotted keys.

    Returns:
        the rest, and the nested keys without their prefix.

    Raises:
        ConfigError: the mapping is not a mapping, or a dotted key has nothing after its dot.
    """
    mapping_key = f"{prefix}_config" if mapping_key is None else mapping_key
    mapping = values.get(mapping_key)
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise ConfigError(
            f"{mapping_key}={mapping!r} is not a mapping of keys (fix: {mapping_key}: {{key: value}} in a file, or "
            f"--{prefix}.key=value)."
        )
    nested: dict[str, object] = dict(mapping)
    rest: dict[str, object] = {}
    for key, value in values.items():
        if key == f"{prefix}.":
            raise ConfigError(f"Key '{key}' has nothing after the dot (fix: --{prefix}.key=value).")
        if key.startswith(f"{prefix}."):
            nested[key.removeprefix(f"{prefix}.")] = value
        elif key != mapping_key:
            rest[key] = value
    return rest, nested
