//! The network of `strict`: a loopback interface, and on it the socket of the gateway. Its counters tell what programs tried to
//! reach.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use serde::{Deserialize, Serialize};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_AND_ACK: u16 = 0x5;
const IFF_UP: u32 = 1;
/// `lo` is the first interface of every new network namespace.
const LOOPBACK: i32 = 1;

/// Brings the loopback interface up. 127.0.0.1 and ::1 appear with it.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // The protocol with number 0 is the one of routes and interfaces.
        None,
    )?;
    send(&socket, &set_link_up(LOOPBACK), SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (_, count) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // An acknowledgement is a header of 16 bytes and an error number; 0 stands for success.
    let error = answer
        .get(16..20)
        .filter(|_| count >= 20)
        .and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A message of rtnetlink(7): `struct nlmsghdr`, then `struct ifinfomsg`.
fn set_link_up(interface: i32) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_AND_ACK.to_ne_bytes());
    // Sequence number, and the kernel as the receiver.
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    // Any family, padding, any type.
    message.extend([0; 4]);
    message.extend(interface.to_ne_bytes());
    // The flags, and which of them to change.
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message
}

pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Attempts to reach something that does not exist in a network, as its kernel counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttempts {
    /// To addresses without a route: all that are not loopback.
    pub addresses: u64,
    /// Datagrams to loopback ports without a receiver. Nearly all of them are questions to a name server.
    pub names: u64,
    /// Connections to loopback ports without a listener.
    pub local_ports: u64,
}

/// The attempts of all processes in the network of this process, since the network was made.
pub(crate) fn attempts() -> NetworkAttempts {
    let read = |name| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    count(&read("snmp"), &read("snmp6"))
}

fn count(snmp: &str, snmp6: &str) -> NetworkAttempts {
    NetworkAttempts {
        addresses: counter(snmp, "Ip:", "OutNoRoutes") + counter6(snmp6, "Ip6OutNoRoutes"),
        names: counter(snmp, "Udp:", "NoPorts") + counter6(snmp6, "Udp6NoPorts"),
        // The counters of TCP hold for both versions of IP.
        local_ports: counter(snmp, "Tcp:", "AttemptFails"),
    }
}

/// A counter of `/proc/net/snmp`: each protocol has a line of names and a line of numbers.
fn counter(snmp: &str, protocol: &str, name: &str) -> u64 {
    let mut lines = snmp
        .lines()
        .filter_map(|line| line.strip_prefix(protocol))
        .map(str::split_whitespace);
    let (Some(mut names), Some(mut numbers)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let place = names.position(|known| known == name);
    place
        .and_then(|place| numbers.nth(place)?.parse().ok())
        .unwrap_or(0)
}

/// A counter of `/proc/net/snmp6`: a name and a number on each line.
fn counter6(snmp6: &str, name: &str) -> u64 {
    let number = snmp6.lines().find_map(|line| line.strip_prefix(name));
    number
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_the_sums_of_both_versions_of_ip() {
        let snmp = "Ip: Forwarding DefaultTTL OutDiscards OutNoRoutes\nIp: 2 64 0 3\n\
                    Icmp: InMsgs\nIcmp: 9\n\
                    Tcp: RtoAlgorithm AttemptFails EstabResets\nTcp: 1 4 0\n\
                    Udp: InDatagrams NoPorts InErrors\nUdp: 0 8 0\n\
                    UdpLite: InDatagrams NoPorts\nUdpLite: 0 70\n";
        let snmp6 = "Ip6OutNoRoutes                  \t2\nUdp6NoPorts                     \t1\n";
        let expected = NetworkAttempts {
            addresses: 5,
            names: 9,
            local_ports: 4,
        };
        assert_eq!(count(snmp, snmp6), expected, "UdpLite is another protocol");
        assert_eq!(
            count("Ip: OutNoRoutes\n", ""),
            NetworkAttempts::default(),
            "a file without numbers counts nothing"
        );
    }

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let message = set_link_up(LOOPBACK);
        assert_eq!(message.len(), 32, "two structures of 16 bytes each");
        assert_eq!(message[..4], 32_u32.to_ne_bytes(), "the length comes first");
    }
}
