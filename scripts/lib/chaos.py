"""Makes the scripted LLM fail in one way after the other while tasks run, and prints what the pool does about it: the
program behind scripts/quickstart --chaos.

    chaos.py LLM_URL [--once]

POOL_URL in the environment is the pool's address. The lines about the pool come from its status (narrator.py), the lines
about the LLMs from the requests that they received. With --once it ends after one round; the exit status is 0 if every
task succeeded and the pool did in each act what that act shows.
"""

import decimal
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import narrator  # noqa: E402

QWEN = "ollama/qwen2.5-coder:7b-instruct"
CLAUDE = "anthropic/claude-sonnet-4-20250514"
PRIMARIES = ["qwen2.5-coder:7b", "claude-sonnet-4", "deepseek-coder-v3:14b"]
# A call of Claude costs about one cent.
USUAL = {"model": "*", "say": "Done.", "usage": {"input_tokens": 1000, "output_tokens": 500}, "delay_ms": 50}
LIMIT_S = 90
# The limit in config/trial.yaml.
TRIAL_LIMIT_USD = 50
# The limit of a task in config/trial-chaos.yaml.
CAP_USD = decimal.Decimal("0.05")


class Failure(Exception):
    """The pool did not do what an act shows, or a request failed."""


def http(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip()
        raise Failure(f"{method} {url} was answered {error.code} {error.reason}: {said}") from error
    except (OSError, ValueError) as error:
        raise Failure(f"{method} {url} was not answered: {error}") from error


class Pool:
    """The pool, and a thread that polls its status and prints what changes."""

    def __init__(self, url, llm_url):
        self.url, self.llm_url = url, llm_url
        self.batch = time.strftime("chaos-%H%M%S")
        self.submitted = 0
        self.seen = 0
        # When the newest status was asked for, and when this script last changed anything: an older status does not count.
        self.asked, self.acted = 0.0, 0.0
        self.status = self.get_status()
        self.watching = threading.Thread(target=self.watch, daemon=True)
        self.watching.start()

    def get_status(self):
        return http("GET", f"{self.url}/programmer_pool/status")

    def watch(self):
        while True:
            time.sleep(0.2)
            asked = time.monotonic()
            try:
                after = self.get_status()
            except Failure as failure:
                tell(f"(failed to read the pool's status: {failure})")
                continue
            for sentence in narrator.sentences(self.status, after):
                tell(sentence)
            self.status, self.asked = after, asked

    def rules(self, *rules):
        http("PUT", f"{self.llm_url}/script/rules", [*rules, USUAL])
        self.acted = time.monotonic()

    def submit(self, count, *capabilities):
        tasks = []
        for _ in range(count):
            self.submitted += 1
            name = f"{self.batch}-{self.submitted:03}"
            tasks.append({
                "id": name,
                "instruction": f"{name}: three calls and a changed file",
                "repository": "sample",
                "capabilities": list(capabilities),
                "labels": {"run_id": self.batch},
            })
        http("POST", f"{self.url}/tasks", tasks)
        self.acted = time.monotonic()
        wanted = f"programmers that offer {'/'.join(capabilities)}" if capabilities else "any programmer"
        say(f"  ({count} tasks for {wanted})")

    def allow(self, more_usd):
        """Sets today's limit to `more_usd` above what is spent: this pool may have spent money today already."""
        self.limit(decimal.Decimal(self.get_status()["budget"]["spent_usd"]) + more_usd)

    def limit(self, usd):
        http("POST", f"{self.url}/budget", {"limit_usd": str(usd), "for": "today"})
        self.acted = time.monotonic()

    def until(self, what, fits):
        """Waits until the status fits."""
        deadline = time.monotonic() + LIMIT_S
        while self.asked <= self.acted or not fits(self.status):
            if time.monotonic() > deadline:
                raise Failure(f"this did not happen within {LIMIT_S} s: {what}; the logs are in .pool/logs")
            time.sleep(0.1)

    def open_tasks_done(self):
        self.until("every task has an outcome", lambda status: status["open_tasks"] == 0)

    def calls(self):
        """Prints one line for each LLM: the requests that it received since the last call."""
        received = http("GET", f"{self.llm_url}/script/requests?after={self.seen}")
        counts = {}
        for request in received:
            self.seen = max(self.seen, request["number"])
            of_model = counts.setdefault(request["model"], {})
            outcome = "given up by the pool" if request["outcome"] == "client went away" else request["outcome"]
            of_model[outcome] = of_model.get(outcome, 0) + 1
        for model, outcomes in sorted(counts.items()):
            listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            tell(f"CALLS          {model} received: {listed}.")

    def outcomes(self):
        totals = {}
        for state in ("succeeded", "failed", "rejected", "cancelled", "expired"):
            path = f"/tasks?label=run_id={self.batch}&status={state}&limit=1"
            totals[state] = http("GET", f"{self.url}{path}")["total"]
        return {state: total for state, total in totals.items() if total}


def say(line):
    print(line, file=sys.stderr, flush=True)


def tell(line):
    say(f"  {time.strftime('%H:%M:%S')}  {line}")


def act(title, text):
    say(f"\n--- {title}\n  {text}")


def state_of(status, llm):
    states = [breaker["state"] for breaker in status["breakers"] if breaker["llm"] == llm]
    return next((state for state in states if state != "closed"), "closed")


def is_open(llm):
    return lambda status: state_of(status, llm) != "closed"


def all_on_primary(status):
    return not any(p["using_backup"] or p["circuit_open"] for p in status["programmers"])


def shut_for_budget(status):
    return sum(1 for p in status["programmers"] if narrator.shut_for(p) == "budget")


def nobody_can_pay(status):
    """Whether every paid programmer is shut, no paid task runs, and the rest of the budget is too small for another one."""
    budget = status["budget"]
    rests = decimal.Decimal(budget["left_usd"]) < CAP_USD and decimal.Decimal(budget["reserved_usd"]) == 0
    return rests and shut_for_budget(status) == 3


def recovered(pool):
    """Ends the failures and waits until the pool has found out by itself."""
    tell("(the LLMs work again; the pool has to find out by itself)")
    pool.rules()
    pool.until("every programmer is back on its primary", all_on_primary)
    pool.open_tasks_done()
    pool.calls()


def calm(pool):
    act("Calm", "Ten tasks while every LLM answers.")
    pool.rules()
    pool.submit(10)
    pool.open_tasks_done()
    pool.calls()


def rate_limit(pool):
    act("A storm of 429", f"{QWEN} answers 429 with Retry-After: 5.")
    pool.rules({"model": "qwen2.5-coder:7b", "fail": {"status": 429, "retry_after_s": 5}})
    pool.submit(20, "fast")
    pool.until(f"the breaker of {QWEN} is open", is_open(QWEN))
    pool.open_tasks_done()
    recovered(pool)


def outage(pool):
    act("Three primaries are down", "They answer 500 to every call.")
    pool.rules(*({"model": model, "fail": {"status": 500}} for model in PRIMARIES))
    pool.submit(12, "fast")
    pool.submit(6, "deepseek")
    pool.submit(4, "reasoning")
    pool.until(f"the breaker of {QWEN} is open", is_open(QWEN))
    pool.open_tasks_done()
    recovered(pool)


def hang(pool):
    act("A primary hangs", f"{QWEN} reads every request and never answers; the pool's time limit for a call is 4 s.")
    pool.rules({"model": "qwen2.5-coder:7b", "behave": "hang"})
    pool.submit(10, "fast")
    pool.until(f"the breaker of {QWEN} is open", is_open(QWEN))
    pool.open_tasks_done()
    recovered(pool)


def slow(pool):
    act("Every LLM is slow", "Every call takes a second longer; no call fails.")
    pool.rules({"model": "*", "delay_ms": 1000, "say": "Done.", "usage": USUAL["usage"]})
    pool.submit(20)
    pool.open_tasks_done()
    opened = [breaker["llm"] for breaker in pool.status["breakers"] if breaker["state"] != "closed"]
    if opened:
        raise Failure(f"slow LLMs opened a breaker: {opened}")
    recovered(pool)


def money(pool):
    text = "Today's limit is now $0.20 above what is spent. Thirty tasks need a paid LLM."
    act("The budget of the day runs out", text)
    pool.rules()
    pool.allow(decimal.Decimal("0.20"))
    pool.submit(30, "paid")
    pool.until("every paid programmer is shut because of the budget", nobody_can_pay)
    tell(f"BUDGET         {narrator.money(pool.status['budget'])}.")
    waiting = pool.status["open_tasks"]
    tell(f"{waiting} tasks wait for budget. Tasks for free programmers still run:")
    pool.submit(14, "free")
    pool.until("the free tasks are done", lambda status: status["open_tasks"] == waiting)
    tell(f"The free tasks are done, {waiting} still wait. Today's limit is now $2.00 above what is spent.")
    pool.allow(decimal.Decimal(2))
    pool.open_tasks_done()
    tell(f"BUDGET         {narrator.money(pool.status['budget'])}.")
    pool.calls()


ACTS = [calm, rate_limit, outage, hang, slow, money]


def main():
    url, once = sys.argv[1], "--once" in sys.argv[2:]
    pool = Pool(os.environ["POOL_URL"], url.rstrip("/"))
    try:
        rounds(pool, once)
    finally:
        # Today's limit holds until midnight for every pool on this broker, so it is set back.
        pool.limit(TRIAL_LIMIT_USD)


def rounds(pool, once):
    while True:
        pool.allow(decimal.Decimal("0.50"))
        for play in ACTS:
            play(pool)
        outcomes = pool.outcomes()
        listed = ", ".join(f"{count} {state}" for state, count in outcomes.items())
        act("The end of the round", f"{pool.submitted} tasks since the start: {listed}.")
        if outcomes != {"succeeded": pool.submitted}:
            raise Failure(f"not every task succeeded: pool tasks --label run_id={pool.batch} lists them")
        if once:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Failure as failure:
        say(f"chaos: {failure}")
        sys.exit(1)
