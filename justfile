# The commands of this repository: `just --list` names them, `just RECIPE` runs one.

# Show the recipes
default:
    @just --list --unsorted

# Twelve tasks with a scripted LLM, from nothing: `just quickstart --chaos`
quickstart *arguments:
    scripts/quickstart {{ arguments }}

# Build the programs, with debug information
build:
    cargo build --locked --workspace --bins

# Format the Rust code
fmt:
    cargo fmt --all

# Run all checks that need no test, or those named: `just lint clippy prose`
lint *parts:
    scripts/lint {{ parts }}

# Run everything that must pass, or some tests: `just test -p pool-core routing`
test *arguments:
    scripts/test {{ arguments }}

# Open the documentation of the code
doc:
    cargo doc --locked --workspace --no-deps --document-private-items --open

# Write the generated pages below docs/
docs:
    scripts/docs

# Build the book of docs/
book:
    mdbook build docs

# Measure throughput and latency
bench *arguments:
    scripts/bench {{ arguments }}

# Kill processes of a pool that works, and count lost tasks: `just soak --minutes 30`
soak *arguments:
    scripts/soak {{ arguments }}

# Change the code and see that a test fails: `just mutants -p pool-core`
mutants *arguments:
    cargo mutants {{ arguments }}

# Make the files of a release for this machine
release *arguments:
    scripts/release {{ arguments }}
