//! The network of `strict`: a loopback interface, and on it the socket of the gateway.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says() {
        let message = set_link_up(LOOPBACK);
        assert_eq!(message.len(), 32, "two structures of 16 bytes each");
        assert_eq!(message[..4], 32_u32.to_ne_bytes(), "the length comes first");
    }
}
