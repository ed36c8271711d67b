#!/usr/bin/python3
"""A small agent in Python, to begin an agent of your own with. It asks the LLM for the whole new text of each file that the
task names, and writes it. It needs no packages.

python_agent.py PROMPT_FILE FILE…, in the worktree"""

import json
import os
import sys
import urllib.request

FENCE = "```"


def ask(question):
    """One call. The gateway repeats it when that helps, and moves to the backup LLM, so this does not try again."""
    body = {"model": os.environ["POOL_MODEL"], "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(os.environ["POOL_BASE_URL"] + "/chat/completions", json.dumps(body).encode())
    request.add_header("authorization", "Bearer " + os.environ["POOL_TOKEN"])
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def new_text(answer):
    """The text between the first and the last fence."""
    lines = answer.splitlines(keepends=True)
    fences = [number for number, line in enumerate(lines) if line.startswith(FENCE)]
    if len(fences) < 2:
        sys.exit("the LLM answered without a fenced text:\n" + answer)
    return "".join(lines[fences[0] + 1 : fences[-1]])


def main():
    with open(sys.argv[1]) as file:
        task = file.read()
    for name in sys.argv[2:]:
        with open(name) as file:
            text = file.read()
        answer = ask(f"{task}\n\nThe file {name}:\n{FENCE}\n{text}{FENCE}\nAnswer with its whole new text between two lines {FENCE}.")
        with open(name, "w") as file:
            file.write(new_text(answer))
        print("changed", name)


if __name__ == "__main__":
    main()
