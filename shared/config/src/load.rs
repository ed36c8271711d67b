//! From text to a validated pool: reads what can be read, checks all of it, and reports all mistakes together.

use std::collections::BTreeSet;
use std::path::Path;

use serde_yaml::Value;

use super::checks::Checks;
use super::env::Env;
use super::mistake::{Mistake, Mistakes};
use super::position::{At, Step, Tree};
use super::raw::RawPool;
use super::{Pool, Secret, broker, llms, prices, programmers, providers, relations, wording};

/// Reads and validates a pool file. `AMQP_URL` in `env` (or the file that `AMQP_URL_FILE` names) overrides `broker.url`;
/// `POOL_<PROVIDER>_URL` overrides the `base_url` of that provider.
///
/// # Errors
/// All mistakes of the file and of these variables.
pub fn load(file: &Path, env: &Env) -> Result<Pool, Mistakes> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let problem =
            format!("cannot be read ({error}): name the pool file with --pool FILE or POOL_FILE");
        alone(file, None, problem)
    })?;
    parse_with(&text, file, env)
}

/// Validates the text of a pool file. `file` appears in messages, and relative paths start from its directory.
///
/// # Errors
/// All mistakes of the text.
pub fn parse(text: &str, file: &Path) -> Result<Pool, Mistakes> {
    parse_with(text, file, &Env::empty())
}

fn parse_with(text: &str, file: &Path, env: &Env) -> Result<Pool, Mistakes> {
    let tree = Tree::parse(text).map_err(|error| {
        alone(
            file,
            Some(error.marker().line()),
            format!("is not valid YAML: {}", error.info()),
        )
    })?;
    let mut checks = Checks::new(file, tree.clone());
    for (at, line) in tree.duplicates() {
        checks.at_line(line, &at, "is given twice: keep one of the two");
    }
    if let Some(mistakes) = checks.into_mistakes() {
        return Err(mistakes);
    }
    let value = yaml(text).map_err(|(line, problem)| alone(file, line, problem))?;
    let mut checks = Checks::new(file, tree);
    let entries = checks.entries(&At::top("programmers"));
    let pool = read(value, &mut checks).map(|raw| validate(raw, entries, file, env, &mut checks));
    match (pool, checks.into_mistakes()) {
        (_, Some(mistakes)) => Err(mistakes),
        (Some(pool), None) => Ok(pool),
        (None, None) => Err(alone(file, None, "cannot be read".to_owned())),
    }
}

fn alone(file: &Path, line: Option<usize>, problem: String) -> Mistakes {
    Mistakes::new(vec![Mistake {
        file: file.to_owned(),
        line,
        key: String::new(),
        problem,
    }])
}

fn yaml(text: &str) -> Result<Value, (Option<usize>, String)> {
    let wrong = |error: serde_yaml::Error| {
        (
            error.location().map(|location| location.line()),
            format!("is not valid YAML: {error}"),
        )
    };
    let mut value: Value = serde_yaml::from_str(text).map_err(wrong)?;
    value.apply_merge().map_err(wrong)?;
    match value {
        Value::Mapping(_) => Ok(value),
        Value::Null => Err((
            None,
            "is empty: a pool file needs at least `programmers`".to_owned(),
        )),
        Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Sequence(_)
        | Value::Tagged(_) => Err((
            Some(1),
            "is not a pool file: write `key: value` lines, beginning with `programmers:`"
                .to_owned(),
        )),
    }
}

/// Reads the raw file. A value that cannot be read is reported and removed, and reading starts again. So every mistake is
/// found, and each round has one bad value less.
fn read(mut value: Value, checks: &mut Checks) -> Option<RawPool> {
    loop {
        let error = match serde_path_to_error::deserialize(value.clone()) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let at = At::from(error.path());
        let removed = remove(&mut value, &at);
        checks.broken(&at, wording::plain(&error.inner().to_string()));
        if !removed {
            return None;
        }
    }
}

fn remove(value: &mut Value, at: &At) -> bool {
    let Some((last, parents)) = at.steps().split_last() else {
        return false;
    };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(index) => value.get_mut(*index),
    });
    match (parent, last) {
        (Some(Value::Mapping(mapping)), Step::Key(key)) => {
            mapping.shift_remove(key.as_str()).is_some()
        }
        (Some(Value::Sequence(sequence)), Step::Index(index)) if *index < sequence.len() => {
            sequence.remove(*index);
            true
        }
        (Some(_) | None, Step::Key(_) | Step::Index(_)) => false,
    }
}

/// Checks everything. The pool that it returns is valid only if no mistake was found.
fn validate(raw: RawPool, entries: usize, file: &Path, env: &Env, checks: &mut Checks) -> Pool {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = file.parent().map(Path::to_owned).unwrap_or_default();
    pool_size(raw.pool_size, entries, checks);
    let listed = programmers::check(
        raw.programmers,
        &raw.defaults,
        raw.capability_routing,
        checks,
    );
    let mut pool = Pool {
        programmers: Vec::new(),
        load_balancing: raw.load_balancing.check(checks),
        failover: raw.failover.check(checks),
        cost: raw.cost_optimization.check(checks),
        providers: providers::check(raw.providers, env, checks),
        llms: llms::check(raw.llms, checks),
        prices: prices::check(raw.prices, checks),
        catalogue_prices: BTreeSet::new(),
        agent: raw.agent.check(&base, checks),
        workspace: raw.workspace.check(&base, checks),
        sandbox: raw.sandbox.check(&base, checks),
        patch: raw.patch.check(checks),
        acceptance: raw.acceptance.check(checks),
        broker: raw.broker.check(&base, checks),
        events: raw.events.check(checks),
        dispatcher: raw.dispatcher.check(checks),
        file,
    };
    broker_from(env, &mut pool, checks);
    let llms = listed.iter().flat_map(|listed| &listed.programmer.llms);
    prices::fill_in(raw.price_catalogue, &base, llms, &mut pool, checks);
    relations::check(&pool, &listed, checks);
    pool.programmers = listed.into_iter().map(|listed| listed.programmer).collect();
    pool.programmers.sort_by(|a, b| a.id.cmp(&b.id));
    pool
}

fn broker_from(env: &Env, pool: &mut Pool, checks: &mut Checks) {
    match env.secret("AMQP_URL") {
        Ok(Some(url)) => {
            if let Err(problem) = broker::check_url(&url) {
                checks.elsewhere("AMQP_URL (environment)", problem);
            }
            pool.broker.url = Secret::new(url);
        }
        Ok(None) => {}
        Err(problem) => checks.elsewhere("AMQP_URL_FILE (environment)", problem),
    }
    broker::check_tls(&pool.broker, checks);
}

fn pool_size(pool_size: Option<usize>, entries: usize, checks: &mut Checks) {
    if entries == 0 {
        checks.mistake(
            &At::top("programmers"),
            "is empty: a pool needs at least one programmer",
        );
    }
    if let Some(size) = pool_size.filter(|size| *size != entries && entries > 0) {
        let problem = format!(
            "{size} does not match the list of programmers: write {entries}, or correct the list"
        );
        checks.mistake(&At::top("pool_size"), problem);
    }
}
