"""Looks at .github/workflows, the justfile and .dockerignore: what they name must be there, and what they need, too.

check_workflows.py ROOT    needs PyYAML
"""

import os
import pathlib
import re
import sys
import tomllib

import yaml

ROOT = pathlib.Path(sys.argv[1])
PATHS = re.compile(r"(?<![\w./$-])((?:scripts|\.ci|examples|config|docs)/[\w./-]*\w)")
INCLUDES = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"')
wrong = []


def check_paths(file, text):
    for path in PATHS.findall(text):
        if not (ROOT / path).exists():
            wrong.append(f"{file}: there is no {path}")
        elif path.startswith(("scripts/", ".ci/")) and not os.access(ROOT / path, os.X_OK):
            wrong.append(f"{file}: {path} is not executable")


def check_job(place, job, jobs):
    for key in ("runs-on", "timeout-minutes", "steps"):
        if key not in job:
            wrong.append(f"{place}: {key} is missing")
    for name in job.get("needs", []):
        if name not in jobs:
            wrong.append(f"{place}: needs {name}, which is not a job of this file")
    for step in job.get("steps", []):
        if not re.fullmatch(r"[\w./-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", step.get("uses", "a@v1")):
            wrong.append(f"{place}: {step['uses']} names no version")
        check_paths(place, step.get("run", ""))
    image = job.get("container", {})
    image = image if isinstance(image, str) else image.get("image", "")
    if image.startswith("rust:") and not re.match(rf"rust:{TOOLCHAIN}\b", image):
        wrong.append(f"{place}: the image is {image}, but rust-toolchain.toml has {TOOLCHAIN}")


def check_workflow(file):
    try:
        workflow = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        wrong.append(f"{file}: is not valid YAML: {error}")
        return
    if "permissions" not in workflow:
        wrong.append(f"{file}: permissions are missing: begin with `contents: read`")
    for name, job in workflow["jobs"].items():
        check_job(f"{file}: job {name}", job, workflow["jobs"])


def check_image_context():
    """An image is built from the whole workspace: .dockerignore must keep each package, and each file that a program includes."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    kept = [line[1:] for line in lines if line.startswith("!")]
    needed = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    for member in list(needed):
        for file in sorted((ROOT / member / "src").rglob("*.rs")):
            needed += included(file)
    for path in needed:
        if not any(path == keep or path.startswith(f"{keep}/") for keep in kept):
            wrong.append(f".dockerignore: keep {path}: without it no image can be built")


def included(file):
    """The files that this one takes in, except for tests, which no image has."""
    if file.stem.endswith("tests"):
        return
    for name in INCLUDES.findall(file.read_text()):
        yield os.path.relpath(file.parent / name, ROOT)


TOOLCHAIN = re.search(r'channel = "(\d+\.\d+)', (ROOT / "rust-toolchain.toml").read_text())[1]
for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
    check_workflow(file)
check_image_context()
check_paths("justfile", (ROOT / "justfile").read_text())
if wrong:
    sys.exit("\n".join(wrong))
