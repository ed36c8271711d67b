//! The report: results, times and costs of the tasks of a period, by LLM, programmer, route or
//! label. It answers which LLM is worth its money.
//!
//! `reading` collects the tasks, `tally` is the arithmetic (pure). `csv`, `plots` and `html` are
//! the formats.

pub(crate) mod csv;
pub(crate) mod html;
mod plots;
pub(crate) mod reading;
mod tally;
#[cfg(test)]
mod tests;
