"""Writes docs/reference/configuration.md from config/schema/pool.schema.json, so that the reference cannot differ from the program.

config_reference.py SCHEMA               prints the page
config_reference.py SCHEMA --check FILE  says whether FILE is that page
"""

import difflib
import json
import sys

# In the order in which a reader needs them; sections that are not in this list come after these.
ORDER = ["programmers", "pool_size", "capability_routing", "defaults", "providers", "llms", "prices", "price_catalogue", "agent", "workspace", "sandbox",
         "patch", "acceptance", "broker", "events", "dispatcher", "failover", "cost_optimization", "load_balancing"]

HEAD = """\
<!-- Made by scripts/docs from config/schema/pool.schema.json and scripts/lib/config_reference.py. Do not edit. -->
# Configuration

This page lists every key of the pool file. [config/pool.yaml](../../config/pool.yaml) is a sample with a comment at each line. `pool check --pool FILE` lists the mistakes in
yours. Unknown keys are mistakes, so the pool never ignores a misspelt key. Relative paths start from the directory of the pool file.

- An *amount* is a number of US dollars, or a string with one (`2.50`, `"2.50"`). It has at most 6 decimal places.
- A name that ends in `_s` is a number of seconds.
- If a key of a programmer has no default, the value in `defaults` holds.

"""

TAIL = """\
## Keys that must be the same

All dispatchers and workers of a pool must agree on these keys:

- `programmers`: their order, and the id, LLMs, capabilities (with those of `capability_routing`) and limits (with those of `defaults`) of each;
- `prices`, with those that `price_catalogue` adds, and the name and `free` of each provider;
- `load_balancing`, `failover` and `cost_optimization`;
- `max_attempts`, `max_hand_backs` and `retry_delay_s` of `dispatcher`.

`pool check --format json` shows their fingerprint as `config_hash`. The `/health` of a dispatcher shows its own.

The file of the dispatcher that started last is in force. A worker with another fingerprint takes no tasks and says so (`config` in `pool status`). A dispatcher with
another one answers `/ready` with 503.

Everything else may differ: paths, ports, addresses of providers, `agent`, `sandbox`, `patch`, `acceptance`, `broker`, `events` and the rest of `dispatcher`.

Some keys can also be set by [environment variables](environment.md).
"""


def code(value):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def alternatives(schema):
    """The alternatives of a schema (`anyOf`) as a flat list, without `null`."""
    if "anyOf" not in schema:
        return [schema]
    flat = []
    for choice in schema["anyOf"]:
        flat.extend(alternatives(choice))
    return [choice for choice in flat if choice.get("type") != "null"]


def may_be_null(schema):
    kinds = schema.get("type", [])
    return "null" in (kinds if isinstance(kinds, list) else [kinds]) or any(may_be_null(c) for c in schema.get("anyOf", []))


def words(schema):
    """The words that a key may have, each with its description: [(word, text)]. Empty if the key may have any word."""
    if "enum" in schema:
        return [(word, "") for word in schema["enum"]]
    found = []
    for choice in schema.get("oneOf", []):
        found += [(choice["const"], choice.get("description", ""))] if "const" in choice else words(choice)
    return found


def kind(schema):
    """The kind of value, in words."""
    if is_amount(schema):
        return "amount"
    return " or ".join(dict.fromkeys(kind_of_one(choice) for choice in alternatives(schema)))


def is_amount(schema):
    return [choice.get("type") for choice in alternatives(schema)] == ["number", "string"]


def kind_of_one(schema):
    if words(schema):
        return "one word"
    kinds = schema.get("type", "string")
    name = next(k for k in (kinds if isinstance(kinds, list) else [kinds]) if k != "null")
    if name == "array":
        return f"list of {kind(schema['items'])}s" if not words(schema["items"]) else "list of words"
    if name == "object":
        return "map"
    numbers = {"integer": "whole number" + bounds(schema), "number": "number" + bounds(schema)}
    return {"boolean": "true or false", **numbers}.get(name, name)


def bounds(schema):
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None:
        return f", {low} to {high}"
    return f", {low} or more" if low else ""


def default(schema):
    if "default" not in schema:
        return ""
    value = schema["default"]
    if value is None:
        return "" if may_be_null(schema) else "**required**"
    return code(value) if value not in ([], {}) else "none"


def description(schema):
    """The text, then the words that the key may have."""
    lines = [" ".join(schema.get("description", "").split())]
    choices = [word for choice in alternatives(schema) for word in words(choice)]
    if not choices and schema.get("type") == "array":
        choices = words(schema["items"])
    if all(code(word) in lines[0] for word, _ in choices):
        choices = []
    lines += [f"{code(word)}: {text}" if text else code(word) for word, text in choices]
    return "<br>".join(line for line in lines if line).replace("|", "\\|")


def rows(properties, prefix=""):
    # Required keys first, then the others in alphabetical order, as in the schema.
    for name, schema in sorted(properties.items(), key=lambda row: default(row[1]) != "**required**"):
        if schema.get("type") == "object" and "properties" in schema:
            yield f"| `{prefix}{name}` | map | | {description(schema)} |"
            yield from rows(schema["properties"], f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | {kind(schema)} | {default(schema)} | {description(schema)} |"


def entry(schema):
    """The schema of one element of a list or a map, and a sentence that introduces it; None for plain values."""
    if "items" in schema:
        return schema["items"], "Each entry of the list:"
    for key in ("patternProperties", "additionalProperties"):
        inner = schema.get(key)
        inner = next(iter(inner.values())) if key == "patternProperties" and inner else inner
        if isinstance(inner, dict):
            return inner, "Each entry, under its name:"
    return None, ""


def section(name, schema):
    yield f"## `{name}`"
    yield ""
    yield " ".join(schema.get("description", "").split())
    yield ""
    inner, lead = entry(schema)
    if "properties" in schema:
        inner, lead = schema, ""
    if inner is None or "properties" not in inner:
        holds = f"; each entry is a {kind(inner)}" if inner else ""
        yield f"A {kind(schema)}{holds}."
        yield ""
        return
    if lead:
        yield lead
        yield ""
    yield "| key | is | default | meaning |"
    yield "|---|---|---|---|"
    yield from rows(inner["properties"])
    yield ""


def page(schema):
    sections = schema["properties"]
    names = [name for name in ORDER if name in sections] + [name for name in sections if name not in ORDER]
    links = [f"[`{name}`](#{name})" for name in names] + ["[keys that must be the same](#keys-that-must-be-the-same)"]
    lines = [" · ".join(links[at : at + 9]) for at in range(0, len(links), 9)]
    lines = [" ·\n".join(lines), ""]
    for name in names:
        lines += section(name, sections[name])
    return HEAD + "\n".join(lines) + "\n" + TAIL


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        made = page(json.load(file))
    if len(sys.argv) == 2:
        sys.stdout.write(made)
        return
    with open(sys.argv[3], encoding="utf-8") as file:
        written = file.read()
    if made != written:
        sys.stderr.writelines(difflib.unified_diff(written.splitlines(True), made.splitlines(True), sys.argv[3], "as it should be"))
        sys.exit(f"{sys.argv[3]} differs from the schema: run scripts/docs, which writes it again")


main()
