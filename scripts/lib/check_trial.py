"""check_trial.py TRIAL_DIR SAMPLE_REPOSITORY: see scripts/check-trial."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import yaml


def apply(edits, root):
    """Applies edits as aider does: `search` is whole lines that occur once; an empty `search` makes a new file."""
    for edit in edits:
        path = root / edit["file"]
        if not edit["search"]:
            if path.exists():
                raise ValueError(f"{edit['file']} exists already")
            path.write_text(edit["replace"])
            continue
        text, search = "\n" + path.read_text(), "\n" + edit["search"]
        if text.count(search) != 1:
            raise ValueError(f"a search text must occur once in {edit['file']}, and occurs {text.count(search)} times: {edit['search']!r}")
        path.write_text(text.replace(search, "\n" + edit["replace"])[1:])


def failures(checks, root):
    """The checks that fail: {name: last line of the output}."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    found = {}
    for check in checks:
        done = subprocess.run(check["run"], cwd=root, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            found[check["name"]] = (done.stderr or done.stdout).strip().splitlines()[-1:]
    return found


def stray_mentions(answer, task, sample):
    """Files that the answer names and the task does not list: aider would then ask again with them and edit nothing."""
    text = " ".join([answer["say"], *(edit["search"] + " " + edit["replace"] for edit in answer["edits"])])
    words = {word.strip("\"'`.,;:!?()[]") for word in text.split()}
    known = {str(path.relative_to(sample)) for path in sample.rglob("*") if ".git" not in path.parts}
    return sorted(name for name in known - set(task["files"]) if {name, pathlib.PurePath(name).name} & words and "." in name)


def problem_with(task, answers, sample):
    """The first mistake of a task, or None."""
    fitting = [answer for answer in answers if answer["when"] in task["instruction"]]
    if len(fitting) != 1:
        return f"exactly one answer must fit its instruction, and {len(fitting)} do"
    missing = [name for name in task["files"] if not (sample / name).is_file()]
    if missing:
        return f"it lists files that the sample repository does not have: {missing}"
    stray = stray_mentions(fitting[0], task, sample)
    if stray:
        return f"its answer names files that the task does not list: {stray}"
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory) / "work"
        shutil.copytree(sample, root)
        if not failures(task["acceptance"], root):
            return "its acceptance checks pass before the edits"
        try:
            apply(fitting[0]["edits"], root)
        except (OSError, ValueError) as error:
            return str(error)
        left = failures(task["acceptance"], root)
        return f"acceptance checks fail after the edits: {left}" if left else None


def main(trial, sample):
    tasks = yaml.safe_load((trial / "tasks.yaml").read_text())["tasks"]
    answers = yaml.safe_load((trial / "answers.yaml").read_text())["answers"]
    unused = [answer["when"] for answer in answers if not any(answer["when"] in task["instruction"] for task in tasks)]
    problems = [f"no task asks for the answer {when!r}" for when in unused]
    for number, task in enumerate(tasks, start=1):
        problem = problem_with(task, answers, sample)
        if problem:
            problems.append(f"task {number} ({task['instruction'][:50]}…): {problem}")
    for problem in problems:
        print(f"check-trial: {problem}", file=sys.stderr)
    print(f"check-trial: {len(tasks)} tasks, {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
