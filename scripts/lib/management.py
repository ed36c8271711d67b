"""Calls RabbitMQ's management API, or asks Prometheus for its targets; for scripts/test-compose.

management.py URL USER PASSWORD PATH            prints the answer of /api/PATH; exit status 1: refused or not answered
management.py --targets URL JOB:COUNT…          exit status 0: COUNT targets of each JOB are up
"""

import base64
import json
import sys
import urllib.error
import urllib.request


def ask(url, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as answer:
        return answer.read().decode()


def targets_are_up(url, wanted):
    active = json.loads(ask(f"{url}/api/v1/targets"))["data"]["activeTargets"]
    up = [target["labels"]["job"] for target in active if target["health"] == "up"]
    print({job: up.count(job) for job in set(up)}, [target["lastError"] for target in active if target["lastError"]])
    return all(up.count(job) == int(count) for job, count in (want.split(":") for want in wanted))


def main(arguments):
    try:
        if arguments[0] == "--targets":
            return 0 if targets_are_up(arguments[1], arguments[2:]) else 1
        url, user, password, path = arguments
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        print(ask(f"{url}/api/{path}", {"Authorization": f"Basic {login}"}))
        return 0
    except urllib.error.URLError as error:
        print(error, file=sys.stderr)
        return 1


sys.exit(main(sys.argv[1:]))
