//! `pool prices`: the prices of the pool's LLMs, from the pool file or a catalogue, and where the two differ. Needs no broker.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context as _;
use pool_config::{Catalogue, Env, load};
use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::pool::Pool;
use pool_core::price::{DatedPrice, Price, Rates, UtcDay};
use pool_telemetry::clock::wall_clock;
use serde::Serialize;

use crate::check::PoolFileArgs;
use crate::output::FormatArgs;
use crate::table::{lines, table};

/// List the prices of the pool's LLMs, in dollars per million tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pool prices\n  pool prices --diff --pool config/pool.yaml")]
pub(crate) struct PricesArgs {
    #[command(flatten)]
    file: PoolFileArgs,
    /// Show only the LLMs whose price in the pool file differs from the catalogue that came with this program
    #[arg(long)]
    diff: bool,
    #[command(flatten)]
    output: FormatArgs,
}

/// Where a price comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum PriceSource {
    /// The pool file.
    File,
    /// The catalogue, because `price_catalogue` of the pool file names one.
    Catalogue,
    /// The catalogue knows the price; the pool does not use it.
    NotUsed,
    /// The calls of its provider cost nothing.
    Free,
    /// The catalogue does not have the LLM.
    Unknown,
}

impl PriceSource {
    fn words(self) -> &'static str {
        match self {
            Self::File => "pool file",
            Self::Catalogue => "catalogue",
            Self::NotUsed => "catalogue, not used",
            Self::Free => "free",
            Self::Unknown => "not in the catalogue",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PriceRow {
    llm: LlmName,
    source: PriceSource,
    /// Dollars per million tokens: input, cached input, cache write, cache write for an hour, output.
    rates: Option<[MicroUsd; 5]>,
    /// Tiers and dates of the price.
    more: String,
}

#[derive(Debug, Serialize)]
struct Prices {
    /// The catalogue and its day.
    catalogue: String,
    prices: Vec<PriceRow>,
}

/// Runs the command.
///
/// # Errors
/// The mistakes of the pool file.
pub(crate) fn run(args: &PricesArgs) -> anyhow::Result<ExitCode> {
    let pool = match load(&args.file.pool, &Env::of_process()) {
        Ok(pool) => pool,
        Err(mistakes) => {
            crate::output::complain(&mistakes.into());
            return Ok(ExitCode::from(2));
        }
    };
    let catalogue = Catalogue::built_in()
        .map_err(anyhow::Error::msg)
        .context("failed to read the catalogue of this program")?;
    let today = UtcDay::of(wall_clock());
    let llms: BTreeSet<&LlmName> = pool.programmers.iter().flat_map(|one| &one.llms).collect();
    let known = llms.into_iter().map(|llm| known(&pool, &catalogue, llm));
    let rows = if args.diff {
        known
            .filter(Known::differs)
            .flat_map(|known| known.both(today))
            .collect()
    } else {
        known.map(|known| known.row(today)).collect()
    };
    let prices = Prices {
        catalogue: format!("{} of {}", catalogue.source, catalogue.taken),
        prices: rows,
    };
    args.output
        .format
        .print(&prices, |prices| text(prices, args.diff))
}

/// The prices of one LLM, from the pool file and the catalogue.
struct Known {
    llm: LlmName,
    free: bool,
    /// The price that counts in the pool, unless it is free.
    used: Option<Price>,
    from_catalogue: bool,
    listed: Option<Price>,
}

fn known(pool: &Pool, catalogue: &Catalogue, llm: &LlmName) -> Known {
    let provider = pool.providers.get(llm.provider());
    Known {
        llm: llm.clone(),
        free: pool.is_free(llm),
        used: pool.prices.get(llm).cloned(),
        from_catalogue: pool.catalogue_prices.contains(llm),
        listed: provider.and_then(|provider| catalogue.price(llm, provider)),
    }
}

impl Known {
    /// Whether the pool file has a price that is not the catalogue's.
    fn differs(&self) -> bool {
        !self.free && self.used.is_some() && self.used != self.listed
    }

    fn row(&self, today: UtcDay) -> PriceRow {
        match &self.used {
            _ if self.free => self.priced(PriceSource::Free, None),
            Some(price) if self.from_catalogue => {
                self.priced(PriceSource::Catalogue, Some(&price.on(today)))
            }
            Some(price) => self.priced(PriceSource::File, Some(&price.on(today))),
            None => self.priced(PriceSource::Unknown, None),
        }
    }

    /// The price of the file, then that of the catalogue.
    fn both(self, today: UtcDay) -> [PriceRow; 2] {
        let listed = match &self.listed {
            Some(price) => self.priced(PriceSource::NotUsed, Some(&price.on(today))),
            None => self.priced(PriceSource::Unknown, None),
        };
        [self.row(today), listed]
    }

    fn priced(&self, source: PriceSource, price: Option<&DatedPrice>) -> PriceRow {
        PriceRow {
            llm: self.llm.clone(),
            source,
            rates: price.map(|price| listed(price.standard.base)),
            more: price.map(more).unwrap_or_default(),
        }
    }
}

fn listed(rates: Rates) -> [MicroUsd; 5] {
    [
        rates.input,
        rates.cached_input,
        rates.cache_write,
        rates.cache_write_1h,
        rates.output,
    ]
}

/// Tiers and dates, in words.
fn more(price: &DatedPrice) -> String {
    let tiers = price.standard.tiers.iter().map(|tier| {
        format!(
            "above {} input tokens {} and {}",
            tier.above_input, tier.rates.input, tier.rates.output
        )
    });
    let service = price
        .service_tiers
        .iter()
        .map(|(tier, card)| format!("{tier} {} and {}", card.base.input, card.base.output));
    let from = price.from.map(|day| format!("from {day}"));
    let until = price.until.map(|day| format!("until {day}"));
    let all = tiers.chain(service).chain(from).chain(until);
    all.collect::<Vec<_>>().join("; ")
}

fn text(prices: &Prices, diff: bool) -> String {
    if prices.prices.is_empty() && diff {
        return format!(
            "No price in the pool file differs from {}.\n",
            prices.catalogue
        );
    }
    let mut rows = table(&[
        "LLM", "source", "$ in", "$ cached", "$ write", "$ 1 h", "$ out", "more",
    ]);
    for row in &prices.prices {
        let rate = |index: usize| {
            row.rates
                .map_or_else(String::new, |rates| rates[index].to_string())
        };
        let mut cells = vec![row.llm.to_string(), row.source.words().to_owned()];
        cells.extend((0..5).map(rate));
        cells.push(row.more.clone());
        rows.add_row(cells);
    }
    rows.align_right(&[2, 3, 4, 5, 6]);
    format!(
        "{}Dollars per million tokens. The catalogue is {}.\n",
        lines(rows),
        prices.catalogue
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn all() -> Vec<Known> {
        let text = "programmers: [{id: x, primary_llm: openai/gpt-4o-mini, backup_llm: ollama/b},\n\
                    {id: y, primary_llm: openai/gpt-4o, backup_llm: openai/mine}]\nprice_catalogue: built_in\nprices:\n  \
                    openai/gpt-4o: {input_usd_per_mtok: 7, output_usd_per_mtok: 9, tiers: [{above_input_tokens: 9, input_usd_per_mtok: 8}]}\n  \
                    openai/mine: {input_usd_per_mtok: 1, output_usd_per_mtok: 1, until: 2026-12-31}\n";
        let pool = pool_config::parse(text, Path::new("/pool.yaml")).expect("a good file");
        let catalogue = Catalogue::built_in().expect("a catalogue");
        let llms: BTreeSet<&LlmName> = pool.programmers.iter().flat_map(|one| &one.llms).collect();
        llms.into_iter()
            .map(|llm| known(&pool, &catalogue, llm))
            .collect()
    }

    fn shown(rows: Vec<PriceRow>) -> Vec<String> {
        let text = |row: PriceRow| {
            let rates = row
                .rates
                .map(|rates| format!(" {} {}", rates[0], rates[4]))
                .unwrap_or_default();
            format!("{} {}{rates} {}", row.llm, row.source.words(), row.more)
                .trim_end()
                .to_owned()
        };
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn each_llm_has_its_price_and_its_source() {
        let today = "2026-12-01".parse().expect("a day");
        let rows = all().iter().map(|known| known.row(today)).collect();
        let shown = shown(rows);
        assert_eq!(shown[0], "ollama/b free", "a free one");
        assert_eq!(
            shown[1],
            "openai/gpt-4o pool file 7.00 9.00 above 9 input tokens 8.00 and 9.00"
        );
        assert!(
            shown[2].starts_with("openai/gpt-4o-mini catalogue 0.15 0.60"),
            "{}",
            shown[2]
        );
        assert_eq!(shown[3], "openai/mine pool file 1.00 1.00 until 2026-12-31");
    }

    #[test]
    fn the_difference_has_both_prices_of_the_llms_that_differ() {
        let today = "2026-12-01".parse().expect("a day");
        let differ = all().into_iter().filter(Known::differs);
        let shown = shown(differ.flat_map(|known| known.both(today)).collect());
        let begin = |line: usize, words: &str| assert!(shown[line].starts_with(words), "{shown:?}");
        assert_eq!(shown.len(), 4, "{shown:?}");
        begin(0, "openai/gpt-4o pool file 7.00 9.00");
        begin(1, "openai/gpt-4o catalogue, not used 2.50 10.00");
        begin(2, "openai/mine pool file 1.00");
        begin(3, "openai/mine not in the catalogue");
    }
}
