"""Checks the words of the project: one word for one thing, in the code and on the pages.

check_words.py [--only PART[,PART…]] [--list] [ROOT]

Parts (all of them without --only):
  glossary  every name in the column "in code" of docs/glossary.md occurs in the Rust sources, outside of comments
  retired   no type, module or function has a retired name (RETIRED below says which word to use instead)
  doubles   at most MOST_DOUBLES type names are defined in more than one place; tests do not count
  pages     every source file that ARCHITECTURE.md, CONTRIBUTING.md, SECURITY.md, docs/glossary.md and docs/internals
            name exists, and every function that stands beside a file ("`a.rs` `f`", "`f` in `a.rs`") is in it; so is
            every test of docs/internals/tests.md

ROOT is the top of the checkout; default: the one that this script is in. --list prints all names that are defined in
more than one place, also when there are few enough. Exit status: 0 all is well, 1 something is wrong (a line for each
problem), 2 wrong usage.
"""

import collections
import pathlib
import re
import subprocess
import sys

MOST_DOUBLES = 10

# (kind, retired name, word to use, folder that it is retired in; "" for everywhere)
RETIRED = [
    ("type", "Decision", "Event", ""),
    ("type", "Batch", "EventBatch", "shared/"),
    ("type", "Fold", "PoolState (`fold` is the function)", ""),
    ("type", "Standing", "Eligibility, or ResultStatus for a result", ""),
    ("type", "Obstacle", "Blocker", ""),
    ("type", "Means", "LlmAccess", ""),
    ("type", "Room", "BudgetFit, or queue_limits for queues", ""),
    ("type", "Due", "Disposition", ""),
    ("type", "Desk", "ResultHandler", ""),
    ("type", "Station", "consumer", ""),
    ("type", "Settling", "completer", ""),
    ("type", "Scribes", "OutcomeWriter", ""),
    ("type", "Watchman", "PresenceTracker", ""),
    ("type", "Sightings", "PresenceTracker", ""),
    ("type", "Postman", "reply_sender", ""),
    ("type", "Place", "Slot", "dispatcher/"),
    ("type", "NoRoom", "QueueFull", ""),
    ("type", "Beats", "Presence", ""),
    ("type", "Seen", "Presence", ""),
    ("type", "Unseen", "Presence", ""),
    ("type", "Door", "GateState", ""),
    ("type", "Others", "PeerPresence", ""),
    ("type", "Teller", "OutputReporter", ""),
    ("type", "Telling", "OutputStream", ""),
    ("type", "Obituary", "DeadLetterInfo", ""),
    ("type", "Letter", "DeadLetter", ""),
    ("module", "stated", "snapshot", ""),
    ("module", "restate", "open_task_snapshots", ""),
    ("module", "standing", "eligibility", ""),
    ("module", "station", "consumer", ""),
    ("module", "walk", "executor", ""),
    ("module", "settling", "completer", ""),
    ("module", "retries", "retry_scheduler", ""),
    ("module", "repair", "rescuer", ""),
    ("module", "rescue", "redrive", ""),
    ("module", "retired", "queue_cleaner", ""),
    ("module", "postman", "reply_sender", ""),
    ("module", "room", "queue_limits", ""),
    ("module", "pool_view", "views", ""),
    ("module", "beats", "presence", ""),
    ("module", "held", "route_load", ""),
    ("module", "numbers", "pool_metrics", ""),
    ("module", "figures", "format", ""),
    ("module", "tables", "table", ""),
    ("module", "bodies", "task_message", ""),
    ("module", "again", "resubmit", ""),
    ("module", "uncut", "detached", ""),
    ("module", "decide", "append_event", ""),
    ("module", "shown", "output", ""),
    ("module", "hand_in", "upload", ""),
    ("module", "picture", "render", ""),
    ("function", "make_again", "schedule_retry", ""),
    ("function", "restate", "append a snapshot", ""),
    ("function", "rescue", "redrive", ""),
    ("function", "bring", "deliver", ""),
    ("function", "take_no_more", "stop", ""),
    ("function", "tell", "log_broker_error, or a verb that says who reports what", ""),
    ("function", "uncut", "detached", ""),
    ("function", "within", "with_timeout", "shared/broker/"),
    ("function", "within", "with_timeout", "shared/src/broker/"),
    ("function", "ask", "poll", "worker/src/programmer/consumer"),
    ("function", "stay", "keep", "worker/src/programmer/consumer"),
    ("function", "listen", "consume", "worker/src/programmer/consumer"),
    ("function", "leave", "cancel", "worker/src/programmer/consumer"),
]

TEST_FILE = re.compile(r"(^|/)(tests|examples|testing)/|(^|/)(tests|testing)\.rs$|_tests\.rs$")
TYPE = re.compile(r"^(?:\s*(?:pub(?:\([^)]*\))?\s+)?(?:struct|enum|trait|union)|(?:pub(?:\([^)]*\))?\s+)?type)\s+([A-Z]\w*)")
MODULE = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)")
FUNCTION = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:const\s+|async\s+|unsafe\s+)*fn\s+(\w+)")
SOURCES = re.compile(r"\.(rs|py|js|css|sh|toml|ya?ml|json|md)$")
TEST_NAME = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+){3,}")


def tracked(root):
    done = subprocess.run(["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, check=True)
    return [path for path in done.stdout.splitlines() if (root / path).is_file()]


def without_comments(text):
    """The lines of a Rust file, with comments and the contents of strings left out; as many lines as before."""
    tokens = r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\\n]|\\[^\n]{1,8}?)\''
    return re.sub(tokens, lambda found: "\n" * found[0].count("\n") or " ", text, flags=re.S).split("\n")


def without_tests(lines):
    """The lines outside of `#[cfg(test)]` blocks; the lines of such blocks become empty."""
    result, depth, waiting = [], 0, False
    for line in lines:
        if not depth and re.fullmatch(r"\s*#\[cfg\((test|any\(test,.*\))\)\]\s*", line):
            waiting = True
        if waiting or depth:
            depth += line.count("{") - line.count("}")
            # `mod tests;` has no block.
            waiting = waiting and not depth and not line.rstrip().endswith((";", "}"))
            result.append("")
        else:
            result.append(line)
    return result


class Project:
    def __init__(self, root):
        self.root = root
        self.files = tracked(root)
        self.rust = {path: without_comments((root / path).read_text()) for path in self.files if path.endswith(".rs")}
        self.production = {path: without_tests(lines) for path, lines in self.rust.items() if not TEST_FILE.search(path)}

    def definitions(self, pattern):
        """[(name, path, line)] in the production code."""
        for path, lines in self.production.items():
            for number, line in enumerate(lines, 1):
                if found := pattern.match(line):
                    yield found[1], path, number

    def page(self, name):
        return (self.root / name).read_text()


def check_glossary(project):
    words = {word for lines in project.rust.values() for line in lines for word in re.findall(r"\w+", line)}
    # A module has the name of its file.
    words |= {part for path in project.rust for part in pathlib.PurePath(path).with_suffix("").parts}
    terms = collections.Counter()
    for number, line in enumerate(project.page("docs/glossary.md").split("\n"), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) < 4 or cells[0] in ("term", "---"):
            continue
        terms[cells[0]] += 1
        if terms[cells[0]] == 2:
            yield f"docs/glossary.md:{number}: the term '{cells[0]}' is there twice"
        for name in re.findall(r"`([^`]+)`", cells[1]):
            if name not in words:
                yield f"docs/glossary.md:{number}: '{cells[0]}': no `{name}` in the Rust sources"


def check_retired(project):
    modules = list(project.definitions(MODULE))
    modules += [(pathlib.PurePath(path).stem, path, 1) for path in project.production]
    modules += [(pathlib.PurePath(path).parent.name, path, 1) for path in project.production if path.endswith("/mod.rs")]
    found = {
        "type": list(project.definitions(TYPE)),
        "module": modules,
        "function": list(project.definitions(FUNCTION)),
    }
    for kind, name, instead, folder in RETIRED:
        # A module is declared in one file and is another; one of them is enough.
        places = [(path, number) for this, path, number in found[kind] if this == name and path.startswith(folder)]
        for path, number in places[:1] if kind == "module" else places:
            yield f"{path}:{number}: {kind} `{name}` is a retired word: say {instead}"


def check_doubles(project, show_all):
    places = collections.defaultdict(list)
    for name, path, number in project.definitions(TYPE):
        places[name].append(f"{path}:{number}")
    doubles = {name: where for name, where in sorted(places.items()) if len(where) > 1}
    lines = [f"type `{name}` is defined in {len(where)} places: {', '.join(where)}" for name, where in doubles.items()]
    if len(doubles) > MOST_DOUBLES:
        yield from lines
        yield f"{len(doubles)} type names are defined in more than one place; at most {MOST_DOUBLES} may be"
    elif show_all:
        print("\n".join(lines))


def prose(text):
    """[(number, line)] of a page, without its blocks of code."""
    fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def is_file(name):
    return (SOURCES.search(name) or name.endswith("/") and "://" not in name) and not re.search(r"[*<]|^/", name)


def functions_beside_files(line):
    """[(file, function)]"""
    for file, names in re.findall(r"`([^`\s]+\.rs)`((?:,? `\w+`)+)", line):
        for name in re.findall(r"\w+", names):
            yield file, name
    for name, file in re.findall(r"`(\w+)` (?:in|of) `([^`\s]+\.rs)`", line):
        yield file, name


def check_pages(project):
    defined = {path: {found[1] for line in lines if (found := FUNCTION.match(line))} for path, lines in project.rust.items()}
    pages = ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/glossary.md"]
    pages += [path for path in project.files if re.match(r"docs/internals/.*\.md$", path)]

    def matching(name):
        wanted = "/" + name
        return [path for path in project.files if (wanted in "/" + path if name.endswith("/") else ("/" + path).endswith(wanted))]

    for page in pages:
        for number, line in prose(project.page(page)):
            for name in re.findall(r"`([^`\s]+)`", line):
                if page == "docs/internals/tests.md" and TEST_NAME.fullmatch(name) and not any(name in names for names in defined.values()):
                    yield f"{page}:{number}: there is no test `{name}`"
                elif is_file(name) and not matching(name):
                    yield f"{page}:{number}: there is no file `{name}`"
            for file, name in functions_beside_files(line):
                files = matching(file)
                if files and name.islower() and not any(name in defined[path] for path in files):
                    yield f"{page}:{number}: there is no function `{name}` in `{file}`"


PARTS = ("glossary", "retired", "doubles", "pages")


def main(arguments):
    if "--help" in arguments or "-h" in arguments:
        print(__doc__.strip())
        return 0
    root, parts, show_all = pathlib.Path(__file__).resolve().parents[2], list(PARTS), False
    while arguments:
        word = arguments.pop(0)
        if word == "--list":
            show_all = True
        elif word == "--only" and arguments:
            parts = arguments.pop(0).split(",")
        elif word.startswith("-"):
            parts = [word]
        else:
            root = pathlib.Path(word)
    if not set(parts) <= set(PARTS):
        print(f"check_words.py [--only {','.join(PARTS)}] [--list] [ROOT]; see --help", file=sys.stderr)
        return 2
    project = Project(root)
    checks = {
        "glossary": lambda: check_glossary(project),
        "retired": lambda: check_retired(project),
        "doubles": lambda: check_doubles(project, show_all),
        "pages": lambda: check_pages(project),
    }
    failed = 0
    for part in parts:
        problems = list(checks[part]())
        if problems:
            failed += 1
            print("\n".join(problems))
            print(f"-- {part}: {len(problems)} lines\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
