"""Prices the usages of a corpus with the library genai-prices, which must be installed.

price_corpus.py DAY CORPUS   prints {case: dollars} as JSON, as of DAY; null where the library cannot price the usage

The library reads each usage itself, with its own rules for the provider and the API.
"""

import json
import sys
from datetime import date, datetime, time, timezone

from genai_prices import data

FLAVORS = {"chat": ("chat", "default"), "responses": ("responses",), "messages": ("default",)}
TIERS = ("priority", "flex", "fast")


def context(answer):
    usage = answer["usage"]
    tier = answer.get("service_tier") or usage.get("service_tier")
    found = {"service_tier": tier} if tier in TIERS else {}
    return {**found, **({"speed": "fast"} if usage.get("speed") == "fast" else {})}


def dollars(case, moment):
    provider = next((one for one in data.providers if one.id == case["provider"]), None)
    model = provider and provider.find_model(case["model"], all_providers=data.providers)
    if model is None:
        return None
    answer = {"model": case["model"], **case["answer"]}
    known = [extractor.api_flavor for extractor in provider.extractors or []]
    flavor = next((flavor for flavor in FLAVORS[case["api"]] if flavor in known), None)
    try:
        _, usage = provider.extract_usage(answer, api_flavor=flavor)
        price = model.calc_price(usage, provider, genai_request_timestamp=moment, price_context=context(answer) or None)
    except ValueError:
        return None
    return format(price.total_price.normalize(), "f")


def main():
    moment = datetime.combine(date.fromisoformat(sys.argv[1]), time(12), timezone.utc)
    with open(sys.argv[2], encoding="utf-8") as file:
        cases = json.load(file)
    lines = [f"{json.dumps(case['case'])}: {json.dumps(dollars(case, moment))}" for case in cases]
    print("{" + f'"day": "{sys.argv[1]}", "dollars": ' + "{\n" + ",\n".join(lines) + "\n}}")


main()
