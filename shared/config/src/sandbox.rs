//! Sections `sandbox` and `acceptance`: the limits of agents and acceptance checks on the machine.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent::check_env;
use super::checks::Checks;
use super::position::At;
use super::workspace::check_path;
use super::{Acceptance, Sandbox, SandboxLevel, SandboxNetwork};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The most MiB, whose number of bytes still fits into 64 bits.
const MOST_MIB: u64 = 1 << 40;
/// The most KiB of output, because output is kept in memory.
const MOST_OUTPUT_KIB: u64 = 64 * 1024;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawSandbox {
    /// How far agents and checks are locked in. A worker tests the level when it starts, and ends if the machine does not
    /// support it.
    level: SandboxLevel,
    /// The network of agents and checks.
    network: SandboxNetwork,
    /// Files and directories that agents and checks may read besides the system's, the toolchains' and their own. A
    /// relative path starts from this file's directory.
    read: Vec<String>,
    /// Files and directories that they may also write, such as a cache. The next run trusts what a run leaves there.
    write: Vec<String>,
    /// Environment variables of agents and checks.
    env: BTreeMap<String, String>,
    /// Address space of one process, in MiB; 0: unlimited.
    max_memory_mib: u64,
    /// Size of one written file, in MiB.
    #[schemars(range(min = 1))]
    max_file_mib: u64,
    /// Processes and threads of a run; 0: unlimited.
    max_processes: u64,
    /// Memory of all processes of a run and of its files in memory, in MiB; 0: unlimited.
    max_total_memory_mib: u64,
    /// The space that a run may take on the disk, in MiB; 0: unlimited.
    max_disk_mib: u64,
    /// The part of the output of an agent or a check that is kept, in KiB.
    #[schemars(range(min = 1, max = 65536))]
    max_output_kib: u64,
}

impl Default for RawSandbox {
    fn default() -> Self {
        Self {
            level: SandboxLevel::Auto,
            network: SandboxNetwork::Gateway,
            read: Vec::new(),
            write: Vec::new(),
            env: BTreeMap::new(),
            max_memory_mib: 8192,
            max_file_mib: 1024,
            max_processes: 4096,
            max_total_memory_mib: 16384,
            max_disk_mib: 4096,
            max_output_kib: 256,
        }
    }
}

impl RawSandbox {
    pub(super) fn check(self, base: &Path, checks: &mut Checks) -> Sandbox {
        check_env(&At::top("sandbox").key("env"), &self.env, checks);
        let mut section = checks.section(At::top("sandbox"));
        for (key, value) in [
            ("max_memory_mib", self.max_memory_mib),
            ("max_total_memory_mib", self.max_total_memory_mib),
            ("max_disk_mib", self.max_disk_mib),
        ] {
            section.within(key, value, 0..=MOST_MIB, "MiB");
        }
        section.within("max_file_mib", self.max_file_mib, 1..=MOST_MIB, "MiB");
        section.within(
            "max_output_kib",
            self.max_output_kib,
            1..=MOST_OUTPUT_KIB,
            "KiB",
        );
        let mut paths = |key: &str, list: &[String]| {
            let list = list.iter().enumerate();
            list.map(|(index, path)| {
                check_path(
                    &At::top("sandbox").key(key).index(index),
                    base,
                    path,
                    checks,
                )
            })
            .collect()
        };
        Sandbox {
            level: self.level,
            network: self.network,
            read: paths("read", &self.read),
            write: paths("write", &self.write),
            env: self.env.into_iter().collect(),
            max_total_memory_bytes: self.max_total_memory_mib.saturating_mul(MIB),
            max_disk_bytes: self.max_disk_mib.saturating_mul(MIB),
            max_memory_bytes: self.max_memory_mib.saturating_mul(MIB),
            max_file_bytes: self.max_file_mib.saturating_mul(MIB),
            max_processes: self.max_processes,
            max_output_bytes: usize::try_from(self.max_output_kib.saturating_mul(KIB))
                .unwrap_or(usize::MAX),
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawAcceptance {
    /// Seconds for an acceptance check that has no timeout_s.
    #[schemars(range(min = 1, max = 86400))]
    timeout_s: u64,
}

impl Default for RawAcceptance {
    fn default() -> Self {
        Self { timeout_s: 300 }
    }
}

impl RawAcceptance {
    pub(super) fn check(self, checks: &mut Checks) -> Acceptance {
        Acceptance {
            timeout: checks.seconds(&At::top("acceptance").key("timeout_s"), self.timeout_s),
        }
    }
}
