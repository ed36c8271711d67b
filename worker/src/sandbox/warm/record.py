"""Writes the names of the modules that a run of aider loads. The run is made up: a small server beside it answers every call
with the same edit, so that nothing of a task comes near the list.

record.py PORT LIST PROGRAM [ARGUMENT…], in an empty directory."""

import http.server
import json
import os
import subprocess
import sys

ANSWER = "a.py\n```python\n<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE\n```\n"


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        message = {"role": "assistant", "content": ANSWER}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "recorded", "usage": USAGE}
        body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def main():
    port, names, argv = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    server = http.server.HTTPServer(("127.0.0.1", port), Answers)
    # The directory for imports that `-c` begins with is not there for a program.
    sys.path.pop(0)
    if os.fork() == 0:
        server.serve_forever()
    server.server_close()
    with open("a.py", "w") as file:
        file.write("x = 1\n")
    for step in (["init", "-q"], ["add", "a.py"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", *step], check=True)
    sys.argv = argv
    try:
        with open(argv[0], "rb") as file:
            exec(compile(file.read(), argv[0], "exec"), {"__name__": "__main__"})
    except SystemExit:
        pass
    with open("a.py") as file:
        if file.read() != "x = 2\n":
            raise SystemExit("the recorded run changed nothing")
    with open(names, "w") as file:
        json.dump([name for name in sys.modules if not name.startswith("__m")], file)
    sys.stdout.flush()
    os._exit(0)


main()
