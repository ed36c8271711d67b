//! Section `patch`: the limits of a change.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Patch;
use super::checks::Checks;
use super::position::At;
use pool_core::patterns::PathPattern;
use pool_core::source::Repository;

const MIB: u64 = 1024 * 1024;
/// The most MiB, whose number of bytes still fits into 64 bits.
const MOST_MIB: u64 = 1 << 40;
/// Files that run programs or name servers as soon as somebody opens, clones or pushes the repository.
const DENIED: [&str; 7] = [
    ".github/workflows/**",
    ".gitlab-ci.yml",
    ".gitmodules",
    ".env*",
    ".vscode/**",
    ".idea/**",
    "**/.git*config",
];

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawPatch {
    /// Paths that no change may contain. A pattern begins at the root of the repository; `*` and `?` stay within a name,
    /// `**` stands for any directories. Upper and lower case are the same.
    deny: Vec<PathPattern>,
    /// Files that agents may not change, such as `tests/**`. A task can add its own.
    protect: Vec<PathPattern>,
    /// The same for single repositories, by their name or URL in tasks.
    protect_in: BTreeMap<Repository, Vec<PathPattern>>,
    /// The size of all changed files together, in MiB.
    #[schemars(range(min = 1))]
    max_mib: u64,
}

impl Default for RawPatch {
    fn default() -> Self {
        Self {
            deny: DENIED
                .iter()
                .filter_map(|text| PathPattern::new(*text).ok())
                .collect(),
            protect: Vec::new(),
            protect_in: BTreeMap::new(),
            max_mib: 64,
        }
    }
}

impl RawPatch {
    pub(super) fn check(self, checks: &mut Checks) -> Patch {
        let mut section = checks.section(At::top("patch"));
        section.within("max_mib", self.max_mib, 1..=MOST_MIB, "MiB");
        Patch {
            deny: self.deny,
            protect: self.protect,
            protect_in: self.protect_in,
            max_bytes: self.max_mib.saturating_mul(MIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_pattern() {
        assert_eq!(RawPatch::default().deny.len(), DENIED.len(), "none is lost");
    }
}
