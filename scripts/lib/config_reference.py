"""Writes docs/configuration.md from config/schema/pool.schema.json, so that the reference cannot differ from the program.

config_reference.py SCHEMA               prints the page
config_reference.py SCHEMA --check FILE  says whether FILE is that page
"""

import difflib
import json
import sys

# The order of the sections on the page; sections that are not listed come last.
ORDER = ["programmers", "pool_size", "capability_routing", "defaults", "providers", "llms", "prices", "agent", "workspace", "sandbox",
         "acceptance", "broker", "events", "dispatcher", "failover", "cost_optimization", "load_balancing"]

HEAD = """\
<!-- Made by scripts/docs from config/schema/pool.schema.json and scripts/lib/config_reference.py. Do not edit. -->
# Configuration reference

Every key of the pool file. [config/pool.yaml](../config/pool.yaml) is a sample with a comment at each line, and
`pool check --pool FILE` says what is wrong with yours. Unknown keys are mistakes, so a key with a slip in it is never
ignored. Relative paths start from the directory of the pool file.

An *amount* is a number of US dollars or a string that holds one (`2.50`, `"2.50"`), with at most 6 decimal places. `_s` at the end of a
name means seconds. Where a programmer's key has no default, the value in `defaults` holds.

"""

TAIL = """\
## What must be the same everywhere

Dispatchers and workers of a pool may have different files, as long as these agree: the programmers in their order, of each the id, the
LLMs, the capabilities (with those of `capability_routing`) and the limits (with those of `defaults`); `load_balancing`; `failover`;
`cost_optimization`; of each provider the name and `free`; `prices`; of `dispatcher` the keys `max_attempts`, `max_hand_backs` and
`retry_delay_s`. `pool check --format json` shows their fingerprint as `config_hash`, and a dispatcher's `/health` its own.

The file of the dispatcher that started last is in force. A worker whose file differs takes no task and says so (`config` in
`pool status`); a dispatcher whose file differs answers `/ready` with 503. Paths, ports, addresses of providers, the agent, `sandbox`,
`acceptance`, `broker`, `events` and the rest of `dispatcher` may differ.

## Environment variables

| variable | of | for |
|---|---|---|
| `AMQP_URL` | both | wins over `broker.url` |
| `POOL_<PROVIDER>_URL` | both | wins over `providers.<provider>.base_url`: capitals, `-` as `_` (`POOL_OLLAMA_URL`) |
| what `api_key_env` names | worker; `pool check --llms` | the key of a provider |
| `<NAME>_FILE` | both | for `AMQP_URL`, `POOL_API_TOKEN` and keys: the file that holds the value, when `<NAME>` itself is not set |
| `POOL_API_TOKEN` | dispatcher, its commands | the token of the HTTP API, at least 16 characters; needed to listen on another address than loopback |
| `POOL_FILE` | both | instead of `--pool` |
| `POOL_URL` | the dispatcher's commands | instead of `--url` |
| `PROGRAMMER_ID` | worker | instead of `--programmers` |
| `RUST_LOG` | both | what is logged: `info` (the default), `debug`, or by module |
| `POOL_LOG` | both | `json`: log lines are JSON |
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
    """The words that a key accepts, as [(word, description)]; empty if it accepts any text."""
    if "enum" in schema:
        return [(word, "") for word in schema["enum"]]
    found = []
    for choice in schema.get("oneOf", []):
        found += [(choice["const"], choice.get("description", ""))] if "const" in choice else words(choice)
    return found


def kind(schema):
    """The type of a value, in words."""
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
        return "" if may_be_null(schema) else "**needed**"
    return code(value) if value not in ([], {}) else "none"


def description(schema):
    """The description, then the words that the key accepts."""
    lines = [" ".join(schema.get("description", "").split())]
    choices = [word for choice in alternatives(schema) for word in words(choice)]
    if not choices and schema.get("type") == "array":
        choices = words(schema["items"])
    if all(code(word) in lines[0] for word, _ in choices):
        choices = []
    lines += [f"{code(word)}: {text}" if text else code(word) for word, text in choices]
    return "<br>".join(line for line in lines if line).replace("|", "\\|")


def rows(properties, prefix=""):
    # Required keys come first; the others follow in the alphabetical order of the schema.
    for name, schema in sorted(properties.items(), key=lambda row: default(row[1]) != "**needed**"):
        if schema.get("type") == "object" and "properties" in schema:
            yield f"| `{prefix}{name}` | map | | {description(schema)} |"
            yield from rows(schema["properties"], f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | {kind(schema)} | {default(schema)} | {description(schema)} |"


def entry(schema):
    """The schema of an element of a list or a map, and the words that introduce it; None for plain values."""
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
    yield "| key | is | default | |"
    yield "|---|---|---|---|"
    yield from rows(inner["properties"])
    yield ""


def page(schema):
    sections = schema["properties"]
    names = [name for name in ORDER if name in sections] + [name for name in sections if name not in ORDER]
    contents = " · ".join(f"[`{name}`](#{name})" for name in names)
    lines = [contents + " ·", "[what must be the same everywhere](#what-must-be-the-same-everywhere) ·",
             "[environment variables](#environment-variables)", ""]
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
