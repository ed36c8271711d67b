//! The filter of system calls (seccomp): keeps kernel interfaces away that a coding agent does not
//! need, and the ways around the other layers.
//!
//! Everything else is allowed. A filter of seccompiler has one answer for everything that it
//! denies, so there is a filter for each answer.

use std::collections::BTreeMap;

use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use crate::plan::{Layers, Level};

/// Calls by number, and the conditions under which they are denied; none: always.
type Denied = BTreeMap<i64, Vec<SeccompRule>>;

/// x86-64 programs can make every call also by its x32 number. The architecture is the same, so a
/// filter of numbers must name both.
const X32: i64 = 0x4000_0000;

/// The argument of sendto(2) and its kin that opens a connection (TCP Fast Open).
const MSG_FASTOPEN: u64 = 0x2000_0000;
/// The call of ext4 that gives a file the blocks of another one. The file has another content then,
/// and none of its times says so. The worker trusts these times when it uses a worktree again.
const EXT4_IOC_MOVE_EXT: u64 = 0xc028_660f;
/// The bits of a socket's type that are not flags.
const SOCKET_TYPE: u64 = 0xf;
/// The flags of clone(2) that make namespaces.
const NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];

/// Memory and files of other processes; interfaces of the kernel; keys; mounts and namespaces;
/// clocks, modules and other things of the whole machine.
const NEVER: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    libc::SYS_lookup_dcookie,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
];

#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[libc::SYS_kexec_file_load];

/// System calls of x32 that have numbers of their own, for example its ioctl, sendmsg and ptrace
/// (the kernel's unistd_x32.h). No ordinary program of this processor has them.
#[cfg(target_arch = "x86_64")]
const X32_ONLY: std::ops::Range<c_long> = 512..548;
#[cfg(not(target_arch = "x86_64"))]
const X32_ONLY: std::ops::Range<c_long> = 0..0;

/// Programs and libraries try these and fall back to others only if they do not exist. clone3 takes
/// its flags from memory, where no filter sees them.
const MISSING: [c_long; 4] = [
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Filters this process and everything that it starts.
pub(crate) fn apply(layers: &Layers, gateway: bool) -> Result<(), seccompiler::Error> {
    for program in compiled(layers, gateway)? {
        apply_filter(&program)?;
    }
    Ok(())
}

/// The filters as the kernel takes them: arrays of `struct sock_filter`.
pub(crate) fn programs(layers: &Layers, gateway: bool) -> Result<Vec<Vec<u8>>, BackendError> {
    let bytes = |program: BpfProgram| {
        let instructions = program.iter().map(|one| {
            let [code_first, code_second] = one.code.to_ne_bytes();
            let [first, second, third, fourth] = one.k.to_ne_bytes();
            let jumps = [one.jt, one.jf];
            [
                code_first,
                code_second,
                jumps[0],
                jumps[1],
                first,
                second,
                third,
                fourth,
            ]
        });
        instructions.flatten().collect()
    };
    Ok(compiled(layers, gateway)?.into_iter().map(bytes).collect())
}

fn compiled(layers: &Layers, gateway: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let compile = |(error, denied): (i32, Denied)| {
        let answer = SeccompAction::Errno(error.unsigned_abs());
        SeccompFilter::new(denied, SeccompAction::Allow, answer, arch)?.try_into()
    };
    filters(layers, gateway)?.into_iter().map(compile).collect()
}

/// The filters: what they answer, and what they deny.
fn filters(layers: &Layers, gateway: bool) -> Result<[(i32, Denied); 3], BackendError> {
    let missing = MISSING.iter().copied().chain(X32_ONLY);
    let missing = missing.map(|number| (number, Vec::new())).collect();
    Ok([
        (libc::EPERM, by_both_numbers(forbidden(layers)?)),
        (
            libc::EAFNOSUPPORT,
            by_both_numbers(sockets(layers, gateway)?),
        ),
        (libc::ENOSYS, by_both_numbers(missing)),
    ])
}

fn by_both_numbers(mut denied: Denied) -> Denied {
    if cfg!(target_arch = "x86_64") {
        let again: Vec<_> = denied
            .iter()
            .map(|(number, rules)| (number | X32, rules.clone()))
            .collect();
        denied.extend(again);
    }
    denied
}

/// A condition on an argument. The kernel reads 32 bits of these arguments, so the filter does, too.
fn argument(index: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, how, value)
}

fn is(index: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    argument(index, SeccompCmpOp::Eq, value)
}

fn is_not(index: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    argument(index, SeccompCmpOp::Ne, value)
}

fn has(index: u8, mask: u64) -> Result<SeccompCondition, BackendError> {
    argument(index, SeccompCmpOp::MaskedEq(mask), mask)
}

/// All conditions together deny a call.
fn when(
    conditions: impl IntoIterator<Item = Result<SeccompCondition, BackendError>>,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

fn forbidden(layers: &Layers) -> Result<Denied, BackendError> {
    let never = NEVER.iter().chain(NEVER_HERE);
    let mut denied: Denied = never.map(|number| (*number, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|flag| when([has(0, *flag)]));
    denied.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    denied.insert(
        libc::SYS_ioctl,
        vec![
            // Both put characters into a terminal as if somebody had typed them.
            when([is(1, libc::TIOCSTI)])?,
            when([is(1, libc::TIOCLINUX)])?,
            when([is(1, EXT4_IOC_MOVE_EXT)])?,
        ],
    );
    // The usual execution domain, a question about it, 32-bit addresses, and no random addresses
    // (debuggers and tests want that).
    let domains = [0, 0xffff_ffff, 0x0000_0008, 0x0004_0000];
    denied.insert(
        libc::SYS_personality,
        vec![when(domains.map(|domain| is_not(0, domain)))?],
    );
    // Limits of other processes.
    denied.insert(libc::SYS_prlimit64, vec![when([is_not(0, 0)])?]);
    if layers.level == Level::Files && layers.own_network {
        // Landlock does not see a connection that a send opens.
        for (call, flags) in [
            (libc::SYS_sendto, 3),
            (libc::SYS_sendmsg, 2),
            (libc::SYS_sendmmsg, 3),
        ] {
            denied.insert(call, vec![when([has(flags, MSG_FASTOPEN)])?]);
        }
        // Landlock sees bind(2), but a socket that listens without it gets a port of every address.
        for call in [libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4] {
            denied.insert(call, Vec::new());
        }
    }
    if layers.level == Level::Files && layers.landlock < 3 {
        // Landlock sees truncate(2) only since ABI 3.
        denied.insert(libc::SYS_truncate, Vec::new());
    }
    Ok(denied)
}

/// Rules that deny every type of socket but these.
fn types_but(allowed: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    (0..=SOCKET_TYPE)
        .filter(|kind| !allowed.contains(kind))
        .map(|kind| when([argument(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE), kind)]))
        .collect()
}

fn sockets(layers: &Layers, gateway: bool) -> Result<Denied, BackendError> {
    let family = |family: i32| u64::from(family.unsigned_abs());
    let (unix, ipv4, ipv6, netlink) = (
        family(libc::AF_UNIX),
        family(libc::AF_INET),
        family(libc::AF_INET6),
        family(libc::AF_NETLINK),
    );
    let other_family = [unix, ipv4, ipv6, netlink].map(|family| is_not(0, family));
    let rules = match (layers.level, layers.own_network) {
        // With a network of its own, all sockets stay inside. Rare protocols have more bugs than
        // uses.
        (Level::Strict, _) | (Level::Files, false) => {
            vec![when(other_family)?, when([is(0, netlink), is_not(2, 0)])?]
        }
        (Level::Files, true) if !gateway => Vec::new(),
        // TCP with its own protocol number only: Landlock sees neither UDP nor MPTCP.
        (Level::Files, true) => {
            let stream = u64::from(libc::SOCK_STREAM.unsigned_abs());
            let mut rules = vec![
                when([is_not(0, ipv4), is_not(0, ipv6)])?,
                when([is_not(2, 0), is_not(2, 6)])?,
            ];
            rules.extend(types_but(&[stream])?);
            rules
        }
    };
    let mut denied = Denied::from([(libc::SYS_socket, rules)]);
    if layers.level == Level::Files {
        // A datagram socket of a pair can send to any other socket of the machine.
        let connected = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET];
        let mut rules = types_but(&connected.map(|kind| u64::from(kind.unsigned_abs())))?;
        rules.push(when([is_not(0, unix)])?);
        denied.insert(libc::SYS_socketpair, rules);
    }
    Ok(denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(Layers, bool)> {
        let mut all = Vec::new();
        for level in [Level::Strict, Level::Files] {
            for landlock in [0, 2, 3, 7] {
                for own_network in [true, false] {
                    for gateway in [true, false] {
                        let layers = Layers {
                            own_network,
                            ..Layers::all(level, landlock)
                        };
                        all.push((layers, gateway));
                    }
                }
            }
        }
        all
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_call_is_denied_by_both_of_its_numbers() {
        for (layers, gateway) in all() {
            for (_, denied) in filters(&layers, gateway).expect("filters") {
                let (x32, usual): (Vec<_>, Vec<_>) = denied
                    .into_iter()
                    .partition(|(number, _)| number & X32 != 0);
                let again: Vec<_> = usual
                    .into_iter()
                    .map(|(number, rules)| (number | X32, rules))
                    .collect();
                assert_eq!(again, x32, "{layers:?} gateway {gateway}");
            }
        }
    }

    #[test]
    fn every_filter_is_a_program_that_the_kernel_takes() {
        for (layers, gateway) in all() {
            for (_, denied) in filters(&layers, gateway).expect("filters") {
                let arch = std::env::consts::ARCH
                    .try_into()
                    .expect("a known processor");
                let filter =
                    SeccompFilter::new(denied, SeccompAction::Allow, SeccompAction::Errno(1), arch)
                        .expect("a filter");
                let program: BpfProgram = filter.try_into().expect("a program");
                assert!(program.len() < 4096, "{} instructions", program.len());
            }
        }
    }

    #[test]
    fn no_filter_is_empty() {
        for (layers, gateway) in all() {
            for (error, denied) in filters(&layers, gateway).expect("filters") {
                assert!(!denied.is_empty(), "{layers:?} {gateway} errno {error}");
            }
        }
    }
}
