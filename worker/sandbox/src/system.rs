//! The parts of a machine that every program may see.

/// Directories with programs and libraries. Most of them are links into `/usr`.
pub(crate) const DIRECTORIES: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// Configuration of programs. Files in it that not everybody can read are hidden.
pub(crate) const CONFIGURATION: &str = "/etc";

/// Names of machines. Programs need it only on the network of the machine.
pub(crate) const NAME_SERVERS: &str = "/etc/resolv.conf";

/// Programs ask how many processors there are.
pub(crate) const PROCESSORS: &str = "/sys/devices/system/cpu";

pub(crate) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Links of a usual `/dev`.
pub(crate) const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Directories that programs expect. They are empty.
pub(crate) const EMPTY: [&str; 5] = ["/home", "/root", "/run", "/var", "/mnt"];

/// Parts of `/proc` that change the machine: read-only.
pub(crate) const PROC_READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// Parts of `/proc` that tell about the kernel and other users: hidden.
pub(crate) const PROC_HIDDEN: [&str; 8] = [
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "timer_list",
    "sched_debug",
    "latency_stats",
    "kmsg",
];
