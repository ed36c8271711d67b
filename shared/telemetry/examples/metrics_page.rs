//! Prints docs/reference/metrics.md.

#![expect(clippy::print_stdout, reason = "the page is the output")]

fn main() {
    print!("{}", pool_telemetry::page());
}
