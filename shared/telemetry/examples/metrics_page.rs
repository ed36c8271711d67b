//! Prints docs/reference/metrics.md.

#![expect(clippy::print_stdout, reason = "what it is for")]

fn main() {
    print!("{}", pool_telemetry::page());
}
