"""What Pulumi spells otherwise than the API: `envs` for `env`, `commands` for `command` ..."""

from typing import Any, cast

from rehearsal.store import Body

NAMES = {"envs": "env", "commands": "command"}
LISTS = ("ports",)
"""Where the plugin has one object for the API's list of at most one."""


def task_template(template: Body) -> Body:
    """A task's template as the API answers it."""
    return _respell(template)


def _respell(value: Any) -> Any:
    if isinstance(value, list):
        return [_respell(each) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    found: Body = {}
    for key, each in cast("Body", value).items():
        spelled = _respell(each)
        found[NAMES.get(key, key)] = [spelled] if key in LISTS else spelled
    return found
