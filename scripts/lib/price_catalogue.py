"""Writes the price catalogue of the pool from the data of the package genai-prices, which must be installed.

price_catalogue.py DAY   prints the catalogue as of DAY, in the form that shared/config/src/catalogue.rs reads

Prices are dollars per million tokens, as texts. A kind of token without a price of its own costs what plain input costs.
Prices that depend on the time of day are the dearest of the day. Prices that have ended are left out.
"""

import json
import re
import sys
from datetime import date, datetime, time, timezone
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version

from genai_prices import data
from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

# Providers that serve one of the three dialects for chat. Routers of other providers' models are left out, but for OpenRouter.
PROVIDERS = ["anthropic", "aws", "azure", "cerebras", "cohere", "deepseek", "fireworks", "google", "groq", "minimax", "mistral", "moonshotai",
             "novita", "openai", "openrouter", "perplexity", "together", "x-ai", "zai"]
RATES = {"input": "input_mtok", "cached": "cache_read_mtok", "write": "cache_write_mtok", "write_1h": "cache_write_1h_mtok", "output": "output_mtok"}
TIERS = {("service_tier", "priority"): "priority", ("service_tier", "flex"): "flex", ("service_tier", "fast"): "fast",
         ("processing", "batch"): "batch", ("speed", "fast"): "fast"}


def digits(regex):
    """A pattern in which # stands for one digit, from a regular expression that has only digits; None for others."""
    if not (regex.startswith("^") and regex.endswith("$")):
        return None
    text = re.sub(r"\\d\{(\d+)\}", lambda found: "#" * int(found[1]), regex[1:-1]).replace(r"\.", ".")
    return None if re.search(r"[\\^$*+?()\[\]{}|]", text) else text


def clause(match):
    """The rule for model names as {kind: value}; None if the pool cannot read it."""
    kind = type(match).__name__.removeprefix("Clause")
    if kind in ("Or", "And"):
        inner = [clause(one) for one in (match.or_ if kind == "Or" else match.and_)]
        known = [one for one in inner if one]
        return {kind.lower(): known} if known and (kind == "Or" or len(known) == len(inner)) else None
    if kind == "Regex":
        if "(?!.*-[tT][tT][sS]" in match.regex:
            return {"without": "-tts"}
        pattern = digits(match.regex)
        return {"digits": pattern} if pattern else None
    key = {"StartsWith": "starts_with", "EndsWith": "ends_with", "Contains": "contains", "Equals": "equals"}[kind]
    return {key: getattr(match, key).lower()}


def micro(price):
    """Six places are a micro-dollar for a million tokens."""
    text = format(price.quantize(Decimal("0.000001"), rounding=ROUND_CEILING), "f")
    return text.rstrip("0").rstrip(".")


def at(price, size):
    """The price of one kind of token in a call with `size` input tokens."""
    if not isinstance(price, TieredPrices):
        return price
    reached = [tier.price for tier in price.tiers if size > tier.start]
    return reached[-1] if reached else price.base


def rates(prices, size):
    found = {name: at(getattr(prices, key, None), size) for name, key in RATES.items()}
    if found["input"] is None or found["output"] is None:
        return None
    for name, instead in (("cached", "input"), ("write", "input"), ("write_1h", "write")):
        if found[name] is None:
            found[name] = found[instead]
    return found


def card(prices):
    """The rates, and those above each size: [{"above": 200000, …}]; None without prices for tokens."""
    base = rates(prices, 0)
    if base is None:
        return None
    sizes = {tier.start for key in RATES.values() if isinstance(getattr(prices, key, None), TieredPrices) for tier in getattr(prices, key).tiers}
    tiers = [{"above": size, **texts(rates(prices, size + 1))} for size in sorted(sizes) if size > 0]
    return {**texts(base), **({"tiers": tiers} if tiers else {})}


def texts(found):
    return {name: micro(price) for name, price in found.items()}


def dearest(cards):
    """The dearest of each rate. The tiers are those of the first."""
    names = list(RATES)
    return {**cards[0], **{name: max((card[name] for card in cards), key=Decimal) for name in names}}


def dated(model, day):
    """[(first day or None, prices)] from `day` on: the prices in force, and those that are known to begin later."""
    if not isinstance(model.prices, list):
        return [(None, [model.prices])]
    now, later, hourly = [model.prices[0].prices], [], []
    for one in model.prices:
        if isinstance(one.constraint, TimeOfDateConstraint):
            hourly.append(one.prices)
        elif isinstance(one.constraint, StartDateConstraint) and one.constraint.start_date > day:
            later.append((one.constraint.start_date.isoformat(), [one.prices]))
        else:
            now = [one.prices]
    return [(None, now + hourly), *later]


def entries(model, day):
    found = []
    for first, prices in dated(model, day):
        cards = [one for one in map(card, prices) if one]
        if not cards:
            return []
        entry = {**({"from": first} if first else {}), **dearest(cards)}
        tiers = service_tiers(model, first, day)
        found.append({**entry, **({"service_tiers": tiers} if tiers else {})})
    return found


def service_tiers(model, first, day):
    moment = datetime.combine(date.fromisoformat(first) if first else day, time(12), timezone.utc)
    found = {}
    for (key, value), name in TIERS.items():
        if name not in found and any(variant.when == {key: value} for variant in model.price_variants or ()):
            standard, own = model.get_prices(moment), model.get_prices(moment, {key: value})
            tier = card(own)
            if tier and tier != card(standard):
                found[name] = tier
    return found


def host(pattern):
    """The name of the host in a pattern for URLs; None if it stands for several."""
    found = re.fullmatch(r"https://([a-z0-9\\.-]+)(\(\?:/\|\$\))?", pattern)
    name = found[1].replace("\\", "") if found else ""
    return name if "." in name and not name.endswith(".") else None


def provider(one, day):
    models = []
    for model in one.models:
        match, prices = clause(model.match), entries(model, day)
        if match and prices:
            models.append({"match": match, "prices": prices})
    fallback = [name for name in one.fallback_model_providers or [] if name in PROVIDERS]
    return {"host": host(one.api_pattern), "fallback": fallback, "models": models}


def main():
    day = date.fromisoformat(sys.argv[1])
    known = {one.id: one for one in data.providers}
    providers = {name: provider(known[name], day) for name in PROVIDERS}
    # One model per line: a newer snapshot is then a readable difference.
    print('{"source": %s,\n"taken": "%s",\n"providers": {' % (json.dumps(f"genai-prices {version('genai-prices')}"), day))
    for index, (name, one) in enumerate(providers.items()):
        models = ",\n".join(json.dumps(model, separators=(",", ":")) for model in one["models"])
        comma = "," if index + 1 < len(providers) else ""
        print(f'"{name}": {{"host": {json.dumps(one["host"])}, "fallback": {json.dumps(one["fallback"])}, "models": [\n{models}\n]}}{comma}')
    print("}}")


main()
