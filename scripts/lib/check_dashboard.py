"""Writes the queries of a Grafana dashboard as recording rules, which promtool can check; reports panels that overlap.

check_dashboard.py DASHBOARD >RULES
"""

import json
import sys

# Variables that Grafana replaces, each with a sample value.
FILLED_IN = {"$__rate_interval": "5m"}


def overlapping(panels):
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"] or x >= 24:
                    yield f"the panels {panel['title']} and {other} overlap, or are wider than the page: change their gridPos"


with open(sys.argv[1], encoding="utf-8") as file:
    dashboard = json.load(file)
panels = dashboard["panels"]
queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
wrong = sorted(set(overlapping(panels)))
if len({panel["id"] for panel in panels}) != len(panels):
    wrong.append("two panels have the same id: give one of them a new id")
if wrong:
    sys.exit("\n".join(wrong))
for name, value in FILLED_IN.items():
    queries = [query.replace(name, value) for query in queries]
rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
# JSON is valid YAML.
json.dump({"groups": [{"name": dashboard["uid"], "rules": rules}]}, sys.stdout)
