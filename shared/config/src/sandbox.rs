//! Sections `sandbox` and `acceptance`: the limits of agents and acceptance checks on the machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::Checks;
use super::position::At;
use super::{Acceptance, Sandbox, SandboxLevel};

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
    /// How far agents and checks are locked in. This version supports only `off`.
    level: SandboxLevel,
    /// Address space of one process, in MiB; 0: unlimited.
    max_memory_mib: u64,
    /// Size of one written file, in MiB.
    #[schemars(range(min = 1))]
    max_file_mib: u64,
    /// Processes and threads of the user that the worker runs as; 0: unlimited.
    max_processes: u64,
    /// The part of the output of an agent or a check that is kept, in KiB.
    #[schemars(range(min = 1, max = 65536))]
    max_output_kib: u64,
}

impl Default for RawSandbox {
    fn default() -> Self {
        Self {
            level: SandboxLevel::Off,
            max_memory_mib: 8192,
            max_file_mib: 1024,
            max_processes: 4096,
            max_output_kib: 256,
        }
    }
}

impl RawSandbox {
    pub(super) fn check(self, checks: &mut Checks) -> Sandbox {
        let mut section = checks.section(At::top("sandbox"));
        match self.level {
            SandboxLevel::Off => {}
            SandboxLevel::Files | SandboxLevel::Strict => section.mistake("level",
                "this version has no kernel sandbox yet; write \"off\" and run the worker as a user of its own, or in a \
                 container",
            ),
        }
        section.within("max_memory_mib", self.max_memory_mib, 0..=MOST_MIB, "MiB");
        section.within("max_file_mib", self.max_file_mib, 1..=MOST_MIB, "MiB");
        section.within(
            "max_output_kib",
            self.max_output_kib,
            1..=MOST_OUTPUT_KIB,
            "KiB",
        );
        Sandbox {
            level: self.level,
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
