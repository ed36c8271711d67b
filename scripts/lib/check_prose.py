"""Finds sentences that are hard to read in comments, strings and Markdown of the tracked files: check_prose.py ROOT [--all]

No place of a rule in NEVER is allowed, and LIMIT places of all rules in 1,000 blocks of text. Rewrite the sentence so that a
newcomer understands it. The limit is for sentences that are right as they stand; --all prints these places too.
"""

import pathlib
import re
import subprocess
import sys

LIMIT, LONGEST = 15, 30
# Data, other people's text, and pages made from comments that are checked in their place.
SKIPPED = re.compile(r"^(Cargo\.lock|config/schema/|config/grafana/|scripts/lib/sample/|examples/node/package)")
NEVER = {
    "who": (r"^(To )?Who(m|se|ever)?\b.*[^?]$", "name the actor: the worker, the dispatcher, the submitter"),
    "what": (r"^What(ever)?\b.*[^?]$", "name the thing"),
    "of-one": (r"^Of (one|a|an|those|several|what|whom)\b", "begin with the subject"),
    "how-much": (r"^(So (long|many|much|often)|As good as|Likewise|Its own)\b", "give the unit or the limit"),
    "he": (r"\b([Hh]e|[Hh]is|[Hh]im|himself|[Ss]he|[Hh]ers?)\b", "a process is 'it'; a person is 'the submitter', 'you' or 'they'"),
}
IDIOMS = "longer|more|one|such|way|need|point|reason|later|other|different|worse|better|less|fewer|limit|matter|guarantee"
SOME = {
    "is-no": (rf"\b(is|are|was|were) (no|none)\b(?! ({IDIOMS}))", "say 'is not a …'"),
    "of-its": (r"\bof (its (may|must|can|is|are|was|has|had|that|which)\b|its[.,;:)]|theirs\b)", "say 'its task', 'none of its LLMs'"),
    "is-told": (r"\b(is|are|was|were|be|been) (told|heard|said|named|shown|minded)\b", "say who reports what, in the active voice"),
    "as-it-was": (r"\((as it was|as before|the same|likewise)\)", "describe what is, without its history"),
    "long": (rf"^(\S+\s+){{{LONGEST},}}\S+$", f"make two sentences: {LONGEST} words at most"),
}
COMMENTS = {".rs": "//[/!]?", ".js": "//", ".py": "#", ".sh": "#", ".yaml": "#", ".yml": "#", ".toml": "#", "": "#"}
STRINGS = re.compile(r'"((?:[^"\\]|\\.){16,})"')


def markdown(lines):
    """(line, text) of each paragraph, item and cell outside of code."""
    code, start, block = False, 0, []
    for number, line in enumerate([*lines, ""], 1):
        bare = line.strip()
        fence = bare.startswith("```")
        if block and (fence or not bare or re.match(r"[-*#|>]|\d+\. ", bare)):
            yield start, " ".join(block)
            block = []
        code ^= fence
        if fence or code or not bare:
            continue
        if bare.startswith("|"):
            yield from ((number, cell) for cell in bare.split("|") if re.search(r"\w", cell))
        else:
            start, block = (start if block else number), [*block, bare.lstrip("-*#> ")]


def source(lines, suffix):
    """(line, text) of each block of comment lines, and of each string with several words."""
    comment, start, block = re.compile(rf"\s*{COMMENTS[suffix]}(?![!\[])\s?(.*)"), 0, []
    for number, line in enumerate([*lines, ""], 1):
        found = comment.fullmatch(line)
        if found and found[1].strip():
            start, block = (start if block else number), [*block, found[1].strip()]
            continue
        if block:
            yield start, " ".join(block)
            block = []
        if suffix in (".rs", ".js"):
            yield from ((number, text) for text in STRINGS.findall(line) if " " in text)


def sentences(text):
    plain = re.sub(r"`[^`]*`", "x", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text))
    return re.split(r"(?<=[.!?])\s+", plain.strip())


root, places, blocks = pathlib.Path(sys.argv[1]), {name: [] for name in NEVER | SOME}, 0
for path in subprocess.run(["git", "-C", root, "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines():
    suffix = pathlib.PurePath(path).suffix
    if SKIPPED.search(path) or suffix not in (*COMMENTS, ".md") or (not suffix and not path.startswith("scripts/")):
        continue
    lines = (root / path).read_text().splitlines()
    for line, text in markdown(lines) if suffix == ".md" else source(lines, suffix):
        blocks += 1
        for name, (pattern, _) in (NEVER | SOME).items():
            places[name] += [f"{path}:{line}: {sentence[:110]}" for sentence in sentences(text) if re.search(pattern, sentence)]
found, never = sum(map(len, places.values())), sum(len(places[name]) for name in NEVER)
over = 1000 * found > LIMIT * blocks
for name, (_, instead) in (NEVER | SOME).items():
    print(f"{len(places[name]):5} {name}: {instead}")
    if name in NEVER or over or "--all" in sys.argv:
        print("".join(f"      {place}\n" for place in places[name]), end="")
print(f"{found} places in {blocks} blocks of text: {1000 * found / blocks:.1f} per 1,000 ({LIMIT} are allowed)")
sys.exit(bool(never or over))
