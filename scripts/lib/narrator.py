"""Describes in sentences how a pool's status has changed.

`sentences(before, after)` compares two answers of GET /programmer_pool/status and uses nothing else.
"""

import datetime


def clock(text):
    """The local time of day of an RFC 3339 time."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone().strftime("%H:%M:%S")


def names(ids):
    """`Prog-001`, `Prog-002 and Prog-003`, `Prog-001 to Prog-005`."""
    ids = sorted(ids)
    if len(ids) > 2 and int(ids[-1]) - int(ids[0]) == len(ids) - 1:
        return f"Prog-{ids[0]} to Prog-{ids[-1]}"
    shown = [f"Prog-{one}" for one in ids]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def plural(ids, one, many):
    return one if len(ids) == 1 else many


def by_value(pairs):
    """{value: [keys]} of (key, value) pairs, in the order of the first key."""
    groups = {}
    for key, value in pairs:
        groups.setdefault(value, []).append(key)
    return groups


def held_back(scope):
    """The calls that a breaker holds back."""
    if scope == "pool":
        return "no call goes there"
    kind, value = next(iter(scope.items()))
    return f"Prog-{value} does not call it" if kind == "programmer" else f"no call from {value} goes there"


def breakers(before, after):
    known = {key(breaker): breaker for breaker in before.get("breakers", [])}
    for breaker in after.get("breakers", []):
        old = known.get(key(breaker), {"state": "closed", "since": breaker["since"]})
        yield from breaker_sentences(old, breaker)


def key(breaker):
    return breaker["llm"], breaker["base_url"], str(breaker["scope"])


def breaker_sentences(old, new):
    llm, was, now = new["llm"], old["state"], new["state"]
    if now != "closed" and was == "closed":
        calls = f"{new['failures']} failed {'call' if new['failures'] == 1 else 'calls'}"
        yield f"BREAKER OPEN   {llm}: {new['reason']}, {calls}; {held_back(new['scope'])} before {clock(new['until'])}."
    if now == "half_open" and (was != "half_open" or old["probed_by"] != new["probed_by"]):
        yield f"PROBE          Prog-{new['probed_by']} tries whether {llm} answers again."
    if now == "open" and (was == "half_open" or (was == "open" and new["failures"] > old["failures"])):
        yield f"STILL DOWN     {llm}: {new['reason']}; the next probe is at {clock(new['until'])}."
    if now == "closed" and was != "closed":
        yield f"BREAKER CLOSED {llm} has answered Prog-{new['probed_by']}; the other programmers return in steps."


def llms(before, after):
    """Programmers that switched to a backup LLM or back."""
    was = {programmer["id"]: programmer["using_backup"] for programmer in before["programmers"]}
    moved = [p for p in after["programmers"] if p["using_backup"] != was.get(p["id"], False)]
    away = by_value((p["id"], p["current_llm"]) for p in moved if p["using_backup"])
    back = by_value((p["id"], p["current_llm"]) for p in moved if not p["using_backup"])
    for llm, ids in away.items():
        yield f"TO THE BACKUP  {names(ids)} {plural(ids, 'goes', 'go')} on with {llm}."
    for llm, ids in back.items():
        yield f"ON THE PRIMARY {names(ids)} {plural(ids, 'is', 'are')} back on {llm}."


def gates(before, after):
    """Programmers that have stopped taking tasks, and those that take tasks again."""
    was = {programmer["id"]: shut_for(programmer) for programmer in before["programmers"]}
    changed = [(p, shut_for(p)) for p in after["programmers"] if shut_for(p) != was.get(p["id"])]
    shut = by_value((p["id"], p["reason"]) for p, reason in changed if reason)
    opened = [p["id"] for p, reason in changed if not reason]
    for reason, ids in shut.items():
        yield f"GATE SHUT      {names(ids)} {plural(ids, 'takes', 'take')} no task. {reason}"
    if opened:
        yield f"GATE OPEN      {names(opened)} {plural(opened, 'takes', 'take')} tasks again."


def shut_for(programmer):
    """One word for why it takes no task, or None. The rest of the reason changes with every status."""
    if programmer["state"] not in ("shut", "down"):
        return None
    return programmer["reason"].split(":")[0] if programmer["state"] == "shut" else "down"


def budget(before, after):
    old, new = before["budget"], after["budget"]
    if new["alert"] and not old["alert"]:
        yield f"BUDGET ALERT   {money(new)}: the alert threshold is ${new['alert_threshold_usd']}."
    if new["max_daily_spend_usd"] != old["max_daily_spend_usd"]:
        yield f"BUDGET         Today's limit is now ${new['max_daily_spend_usd']}."


def money(budget):
    limit = budget["max_daily_spend_usd"]
    of_limit = "" if limit is None else f" of ${limit}"
    return f"${budget['spent_usd']}{of_limit} spent today, ${budget['reserved_usd']} reserved for running tasks"


def sentences(before, after):
    for part in (breakers, llms, gates, budget):
        yield from part(before, after)
