"""Looks at the pages below docs/ and at README.md: what they name must be there.

check_docs.py ROOT [PROGRAMS]    PROGRAMS: a directory with dispatcher and worker
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(sys.argv[1])
PAGES = sorted((ROOT / "docs").glob("*.md"))
# Pages that lead to others, or are led to.
LINKED = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md")] + PAGES
PROGRAMS = ("dispatcher", "worker")
# A section by itself stands in a pool file like this one.
PROGRAMMER = "programmers:\n  - {id: \"001\", primary_llm: ollama/a-model}\n"
wrong = []


def outside_of_blocks(text):
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def blocks(text):
    """[(language, content)] of a page, without the indentation of the list that it stands in."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, flags=re.M | re.S)
    return [(language, re.sub(rf"^{indent}", "", content, flags=re.M)) for indent, language, content in found]


@functools.cache
def anchors(page):
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", outside_of_blocks(page.read_text()), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links(page):
    for target in re.findall(r"\[[^]]*\]\(([^)\s]+)\)", outside_of_blocks(page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists():
            wrong.append(f"{page}: {target}: there is no {file}")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(f"{page}: {target}: {file} has no such heading")


def names(schema):
    """Every field of a message, and every kind of error."""
    for name, value in schema.get("properties", {}).items():
        yield name
        yield from names(value)
    for name, value in schema.get("$defs", {}).items():
        yield from names(value)
        if name == "ErrorKind":
            for choice in value["oneOf"]:
                yield from [choice["const"]] if "const" in choice else choice["enum"]


def check_fields():
    page = ROOT / "docs/messages.md"
    text = page.read_text()
    for message in ("task", "result"):
        schema = json.loads((ROOT / f"config/schema/{message}.schema.json").read_text())
        for name in sorted(set(names(schema))):
            if not re.search(rf"`(\w+(\[\])?\.)*{name}`", text):
                wrong.append(f"{page}: does not describe `{name}` of a {message}")


def is_pool_file(content):
    """Whether it is a pool file, or sections of one: it begins with a section's name."""
    schema = json.loads((ROOT / "config/schema/pool.schema.json").read_text())
    first = next((line for line in content.splitlines() if line and not line.startswith("#")), "")
    return first.split(":")[0] in schema["properties"]


def check_pool_files(page, dispatcher):
    for language, content in blocks(page.read_text()):
        if language != "yaml" or not is_pool_file(content):
            continue
        if not re.search(r"^programmers:", content, flags=re.M):
            content = PROGRAMMER + content
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(content)
            file.flush()
            done = subprocess.run([dispatcher, "check", "--pool", file.name], capture_output=True, text=True, env={}, check=False)
        if done.returncode != 0:
            wrong.append(f"{page}: this pool file is refused:\n{content}\n{done.stdout}{done.stderr}")


@functools.cache
def help_of(program, words):
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, env={}, check=False)
    return done.stdout if done.returncode == 0 else ""


def command_lines(page):
    """What a page calls, in a block or in a line: each with all its words."""
    # What is promised for later has no --help yet.
    text = re.sub(r"^## Not there yet$.*?(?=^## )", "", page.read_text(), flags=re.M | re.S)
    inline = re.findall(r"`([^`\n]+)`", outside_of_blocks(text))
    in_blocks = [line for language, content in blocks(text) if language in ("sh", "console") for line in content.splitlines()]
    for line in inline + in_blocks:
        for part in re.split(r" [|&]+ |\$\(|; ", line):
            words = part.split("#")[0].lstrip("$ ").split()
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if len(words) > 1 and words[0] in PROGRAMS and re.match("[a-z-]+$", words[1]):
                yield words


def check_commands(page, directory):
    for program, *words in command_lines(page):
        path = os.path.join(directory, program)
        command = ()
        while len(command) < len(words) and re.fullmatch("[a-z]+", words[len(command)]) and help_of(path, command + (words[len(command)],)):
            command += (words[len(command)],)
        if not command and not words[0].startswith("-"):
            wrong.append(f"{page}: {program} has no command {words[0]}")
            continue
        for option in re.findall(r"(?<!\S)(--[a-z-]+)", " ".join(words)):
            if not re.search(rf"(^|\s){option}\b", help_of(path, command)):
                wrong.append(f"{page}: {program} {' '.join(command)} has no option {option}")


@functools.cache
def routes():
    """[(pattern of its path, its methods with what they take)] of the API."""
    document = json.loads((ROOT / "config/schema/openapi.json").read_text())
    return [(re.sub(r"\{\w+\}", "[^/]+", path), methods) for path, methods in document["paths"].items()]


def check_requests(page):
    """Every call of the dispatcher by curl goes to a route that there is, with parameters that it knows."""
    in_blocks = [line for language, content in blocks(page.read_text()) if language in ("sh", "console") for line in content.splitlines()]
    for line in in_blocks:
        call = re.search(r"curl .*?(?:http://127\.0\.0\.1:6141|\$POOL_URL)(/[^\s'\"?]*)(?:\?([^\s'\"]*))?", line)
        if not call:
            continue
        path, query = call.groups()
        method = re.search(r"-X (\w+)", line)
        method = method[1].lower() if method else "post" if re.search(r" (-d|--data\S*|--json) ", line) else "get"
        described = next((methods[method] for pattern, methods in routes() if re.fullmatch(pattern, path) and method in methods), None)
        if described is None:
            wrong.append(f"{page}: the API has no {method.upper()} {path}")
            continue
        known = {parameter["name"] for parameter in described.get("parameters", []) if parameter["in"] == "query"}
        for name in re.findall(r"(\w+)=", query or ""):
            if name not in known:
                wrong.append(f"{page}: {method.upper()} {path} has no parameter {name}")


for page in LINKED:
    check_links(page)
    check_requests(page)
check_fields()
if len(sys.argv) > 2:
    for page in [ROOT / "README.md", *PAGES]:
        check_pool_files(page, os.path.join(sys.argv[2], "dispatcher"))
        check_commands(page, sys.argv[2])
if wrong:
    sys.exit("\n".join(wrong))
