"""Checks the pages of the book and the documents at the top: everything that they name must exist.

check_docs.py ROOT [PROGRAMS]    PROGRAMS: a directory with dispatcher, worker and pool
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
BOOK = ROOT / "docs"
SUMMARY = BOOK / "SUMMARY.md"
PAGES = sorted(page for page in BOOK.rglob("*.md") if page != SUMMARY)
# In bytes: a newcomer reads each of them in one go.
LARGEST = {"README.md": 10_240, "ARCHITECTURE.md": 18_432, "CONTRIBUTING.md": 8_192}
LINKED = [ROOT / name for name in LARGEST] + [ROOT / "examples/README.md", ROOT / "SECURITY.md"] + [SUMMARY] + PAGES
# Pages for people who use the pool. The others are about the code: they may name hidden commands and parts of pool files.
FOR_USERS = [ROOT / "README.md"] + [page for page in PAGES if page.parent.name != "internals" and page.name != "glossary.md"]
PROGRAMS = ("dispatcher", "worker", "pool")
# A section of a pool file is checked as a part of a pool file with this programmer.
PROGRAMMER = "programmers:\n  - {id: \"001\", primary_llm: ollama/a-model}\n"
wrong = []


def outside_of_blocks(text):
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def blocks(text):
    """The code blocks of a page as [(language, content)], without the indentation of a list around them."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, flags=re.M | re.S)
    return [(language, re.sub(rf"^{indent}", "", content, flags=re.M)) for indent, language, content in found]


@functools.cache
def anchors(page):
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", outside_of_blocks(page.read_text()), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links(page):
    for target in re.findall(r"\[[^]]*\]\(([^)\s]+)\)", outside_of_blocks(page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists():
            wrong.append(f"{page}: {target}: no such file: {file}")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(f"{page}: the link {target} has no target: {file} has no heading #{anchor}")


def check_summary():
    """The table of contents has every page of the book, and no other."""
    listed = re.findall(r"\]\(([^)#]+)\)", SUMMARY.read_text())
    for name in sorted({name for name in listed if listed.count(name) > 1}):
        wrong.append(f"{SUMMARY}: lists {name} more than once")
    for page in PAGES:
        if str(page.relative_to(BOOK)) not in listed:
            wrong.append(f"{SUMMARY}: does not list {page.relative_to(BOOK)}")


def check_pictures():
    """Every picture is shown somewhere. (That those which are shown exist is a matter of links.)"""
    shown = {(page.parent / target).resolve() for page in LINKED for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", page.read_text())}
    for picture in sorted((BOOK / "images").iterdir()):
        if picture.resolve() not in shown:
            wrong.append(f"{picture}: no page shows it")


def check_sizes():
    for name, largest in LARGEST.items():
        size = (ROOT / name).stat().st_size
        if size > largest:
            wrong.append(f"{ROOT / name}: has {size:,} bytes, {largest:,} are allowed: move something into the book")


@functools.cache
def sources():
    """The code of the programs, without their tests."""
    crates = [ROOT / name for name in ("shared", "dispatcher", "worker", "cli")]
    return "".join(file.read_text() for crate in crates for file in sorted(crate.rglob("src/**/*.rs")))


def check_log_lines(page):
    """A log line that a page quotes is in the code. Lines with an ellipsis are RabbitMQ's."""
    for line in re.findall(r"log(?:s| line)? `([^`\n…]+)`", page.read_text()):
        if line not in sources():
            wrong.append(f"{page}: no program logs `{line}`")


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
    page = BOOK / "reference/messages.md"
    text = page.read_text()
    for message in ("task", "result"):
        schema = json.loads((ROOT / f"config/schema/{message}.schema.json").read_text())
        for name in sorted(set(names(schema))):
            if not re.search(rf"`(\w+(\[\])?\.)*{name}`", text):
                wrong.append(f"{page}: describe `{name}` of a {message}, which is missing")


def is_pool_file(content):
    """Whether it is a pool file, or sections of one: it begins with a section's name."""
    schema = json.loads((ROOT / "config/schema/pool.schema.json").read_text())
    first = next((line for line in content.splitlines() if line and not line.startswith("#")), "")
    return first.split(":")[0] in schema["properties"]


def check_pool_files(page, pool):
    for language, content in blocks(page.read_text()):
        if language != "yaml" or not is_pool_file(content):
            continue
        if not re.search(r"^programmers:", content, flags=re.M):
            content = PROGRAMMER + content
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(content)
            file.flush()
            done = subprocess.run([pool, "check", "--pool", file.name], capture_output=True, text=True, env={}, check=False)
        if done.returncode != 0:
            wrong.append(f"{page}: `pool check` refuses this pool file:\n{content}\n{done.stdout}{done.stderr}")


@functools.cache
def help_of(program, words):
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, env={}, check=False)
    return done.stdout if done.returncode == 0 else ""


def command_lines(page):
    """The commands of a page, in blocks and between backticks: each with all its words."""
    text = page.read_text()
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
        while len(command) < len(words) and re.fullmatch("[a-z]+(-[a-z]+)*", words[len(command)]) and help_of(path, command + (words[len(command)],)):
            command += (words[len(command)],)
        if not command and not words[0].startswith("-"):
            wrong.append(f"{page}: {program} has no command {words[0]}")
            continue
        for option in re.findall(r"(?<!\S)(--[a-z-]+)", " ".join(words)):
            if not re.search(rf"(^|\s){option}\b", help_of(path, command)):
                wrong.append(f"{page}: {program} {' '.join(command)} has no option {option}")


@functools.cache
def routes():
    """The routes of the API as [(pattern of the path, {method: description})]."""
    document = json.loads((ROOT / "config/schema/openapi.json").read_text())
    return [(re.sub(r"\{\w+\}", "[^/]+", path), methods) for path, methods in document["paths"].items()]


def check_requests(page):
    """Every request by curl to a dispatcher has a route and parameters that the API knows."""
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
check_summary()
check_pictures()
check_sizes()
check_fields()
for page in FOR_USERS:
    check_log_lines(page)
if len(sys.argv) > 2:
    for page in FOR_USERS:
        check_pool_files(page, os.path.join(sys.argv[2], "pool"))
        check_commands(page, sys.argv[2])
if wrong:
    sys.exit("\n".join(wrong))
