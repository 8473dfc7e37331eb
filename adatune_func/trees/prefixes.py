"""Which prefix of dotted names a parameter belongs to: whole components, the longest wins."""

from __future__ import annotations

from collections.abc import Iterable


def has_prefix(name: str, prefix: str) -> bool:
    """Whether ``prefix`` is "", the name, or a start of it in whole dotted components."""
    return prefix in ("", name) or name.startswith(f"{prefix}.")


def owners_by_prefix(names: Iterable[str], hparam: str, prefixes: Iterable[str]) -> dict[str, str]:
    """``{name: prefix}``, the longest prefix of each name.

    Raises:
        ValueError: for a name without a prefix, and for a prefix that no name takes.
    """
    prefixes = list(prefixes)
    owners: dict[str, str] = {}
    for name in names:
        matching = [p for p in prefixes if has_prefix(name, p)]
        if not matching:
            raise ValueError(
                f"{hparam} has no prefix for the parameter {name!r}; it has "
                f"{', '.join(map(repr, prefixes))}: add one, or '' for the rest"
            )
        owners[name] = max(matching, key=len)
    for prefix in prefixes:
        if prefix not in owners.values():
            raise ValueError(
                f"no parameter takes {hparam}[{prefix!r}]; prefixes are whole dotted components "
                f"and the longest wins. Parameters: {', '.join(owners)}"
            )
    return owners
